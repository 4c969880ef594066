"""The files that start clusters are accepted by Ray and KubeRay, are secure by default, and name one version of Ray."""

from __future__ import annotations

import json
import os
import re
import subprocess
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from batchtag.cluster.jobs import parse_job
from batchtag.cluster.submission import make_submission
from batchtag.config.job import make_spec

ROOT = Path(__file__).parents[2]
RAYJOB_FIELDS = {
    "spec": {
        *("entrypoint", "runtimeEnvYAML", "jobId", "metadata", "submissionMode", "backoffLimit"),
        *("activeDeadlineSeconds", "preRunningDeadlineSeconds", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished"),
        *("suspend", "clusterSelector", "submitterPodTemplate", "submitterConfig", "deletionStrategy", "managedBy"),
        *("entrypointNumCpus", "entrypointNumGpus", "entrypointResources", "rayClusterSpec"),
    },
    "cluster": {
        *("rayVersion", "authOptions", "enableInTreeAutoscaling", "autoscalerOptions", "headServiceAnnotations"),
        *("headGroupSpec", "workerGroupSpecs", "suspend", "managedBy", "gcsFaultToleranceOptions"),
    },
    "autoscaler": {
        *("version", "resources", "image", "imagePullPolicy", "env", "envFrom", "volumeMounts", "securityContext"),
        *("idleTimeoutSeconds", "upscalingMode"),
    },
    "head": {"serviceType", "headService", "enableIngress", "rayStartParams", "template", "resources", "labels"},
    "worker": {
        *("groupName", "suspend", "replicas", "minReplicas", "maxReplicas", "idleTimeoutSeconds", "numOfHosts"),
        *("resources", "labels", "rayStartParams", "template", "scaleStrategy"),
    },
}
"""Fields of ray.io/v1 by part, as KubeRay's `rayjob_types.go` and `raycluster_types.go` publish them."""
DRIVER_NEEDED = "and CUDA 13 of requirements.lock needs 580 or newer. Set ImageId"


def read_locked_ray_version() -> str:
    match = re.search(r"^ray(?:\[[a-z,]+\])?==([\d.]+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert match
    return match[1]


@pytest.fixture(scope="module")
def cluster() -> dict[str, Any]:
    """The content of cluster.yaml."""
    content: dict[str, Any] = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    return content


@pytest.fixture(scope="module")
def rayjob() -> tuple[dict[str, Any], dict[str, Any]]:
    """The two documents of deploy/rayjob.yaml: the ConfigMap with the job, and the RayJob."""
    config, job = yaml.safe_load_all((ROOT / "deploy" / "rayjob.yaml").read_text())
    return config, job


def test_ray_accepts_the_cluster_file(cluster: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(cluster))


def test_the_cluster_adds_spot_machines_of_several_kinds_and_its_head_does_no_work(cluster: dict[str, Any]) -> None:
    kinds = cluster["available_node_types"]
    assert kinds[cluster["head_node_type"]]["resources"] == {"CPU": 0}
    workers = {name: kind for name, kind in kinds.items() if name != cluster["head_node_type"]}
    assert all(kind["min_workers"] == 0 < kind["max_workers"] for kind in workers.values())
    assert all(kind["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"} for kind in workers.values())
    assert sum("GPU" in kind["resources"] for kind in workers.values()) >= 2
    assert any("GPU" not in kind["resources"] for kind in workers.values())
    assert cluster["max_workers"] == sum(kind["max_workers"] for kind in workers.values())


def test_the_cluster_demands_a_token_keeps_its_dashboard_private_and_holds_no_key(cluster: dict[str, Any]) -> None:
    assert cluster["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    head, worker = " ".join(cluster["head_start_ray_commands"]), " ".join(cluster["worker_start_ray_commands"])
    assert "RAY_AUTH_MODE=token" in head
    assert "RAY_AUTH_MODE=token" in worker
    assert "--dashboard-host=127.0.0.1" in head
    profiles = {
        name: kind["node_config"]["IamInstanceProfile"]["Name"]
        for name, kind in cluster["available_node_types"].items()
    }
    head_profile = profiles.pop(cluster["head_node_type"])
    assert head_profile not in profiles.values(), "a head may start machines, a machine that tags may not"
    assert "aws_secret" not in (ROOT / "cluster.yaml").read_text().lower()


def test_every_machine_image_is_chosen_in_the_file(cluster: dict[str, Any]) -> None:
    """Without it Ray takes an image whose driver is years too old. EC2 resolves the parameter, not Ray."""
    from ray.autoscaler._private.aws.config import _check_ami

    filled = deepcopy(cluster)
    _check_ami(filled)  # type: ignore[no-untyped-call]
    for name, kind in cluster["available_node_types"].items():
        image = kind["node_config"]["ImageId"]
        assert re.fullmatch(r"resolve:ssm:/aws/service/deeplearning/ami/x86_64/[a-z0-9.-]+/latest/ami-id", image)
        assert filled["available_node_types"][name]["node_config"]["ImageId"] == image


@pytest.mark.parametrize(
    ("driver", "code"),
    [("595.71.05", 0), ("580.65.06", 0), ("1000.1", 0), ("570.86.15", 1), ("450.248.02", 1), ("", 1)],
)
def test_ray_up_fails_on_a_machine_whose_driver_is_too_old_for_the_locked_cuda(
    cluster: dict[str, Any], driver: str, code: int, tmp_path: Path
) -> None:
    assert re.search(r"^cuda-toolkit==13\.", (ROOT / "requirements.lock").read_text(), re.MULTILINE), (
        "CUDA 13 needs driver 580"
    )
    modinfo = tmp_path / "modinfo"
    modinfo.write_text(f"#!/bin/sh\n[ \"$*\" = '-F version nvidia' ] && [ -n '{driver}' ] && echo '{driver}'\n")
    modinfo.chmod(0o755)
    (command,) = cluster["initialization_commands"]
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    checked = subprocess.run(["bash", "-c", f"({command})"], env=environment, capture_output=True, text=True)
    assert (checked.returncode, checked.stdout) == (code, "")
    assert checked.stderr == (f"NVIDIA's driver of this AMI is '{driver}', {DRIVER_NEEDED}\n" if code else "")
    assert "NVIDIA's driver 580 or newer" in (ROOT / "deploy" / "rayjob.yaml").read_text()


def test_all_files_name_the_same_version_of_ray(
    cluster: dict[str, Any], rayjob: tuple[dict[str, Any], dict[str, Any]]
) -> None:
    version = read_locked_ray_version()
    assert cluster["docker"]["image"].startswith(f"rayproject/ray:{version}-")
    assert rayjob[1]["spec"]["rayClusterSpec"]["rayVersion"] == version
    assert f"FROM rayproject/ray:{version}-" in (ROOT / "deploy" / "Dockerfile").read_text()


def test_kuberay_accepts_every_field_of_the_rayjob(rayjob: tuple[dict[str, Any], dict[str, Any]]) -> None:
    spec = rayjob[1]["spec"]
    cluster = spec["rayClusterSpec"]
    assert (rayjob[1]["apiVersion"], rayjob[1]["kind"]) == ("ray.io/v1", "RayJob")
    assert set(spec) <= RAYJOB_FIELDS["spec"]
    assert set(cluster) <= RAYJOB_FIELDS["cluster"]
    assert set(cluster["autoscalerOptions"]) <= RAYJOB_FIELDS["autoscaler"]
    assert set(cluster["headGroupSpec"]) <= RAYJOB_FIELDS["head"]
    for group in cluster["workerGroupSpecs"]:
        assert set(group) <= RAYJOB_FIELDS["worker"]
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


def test_the_rayjob_demands_a_token_and_its_job_is_one_that_run_accepts(
    rayjob: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    config, job = rayjob
    assert job["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    assert job["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    spec = make_spec(yaml.safe_load(config["data"]["job.yaml"]), origin="rayjob.yaml")
    groups = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert [(kind.nodes, kind.cpus, kind.gpus) for kind in spec.compute.may_grow_to] == [
        (group["maxReplicas"], float(requests["cpu"]), float(requests.get("nvidia.com/gpu", 0)))
        for group in groups
        for requests in [group["template"]["spec"]["containers"][0]["resources"]["requests"]]
    ]
    assert job["spec"]["entrypoint"].endswith(" /jobs/job.yaml")


def test_the_rayjob_is_listed_and_found_like_a_submitted_job(
    rayjob: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    config, job = rayjob
    metadata, run_id = job["spec"]["metadata"], job["spec"]["jobId"]
    submission = make_submission(
        make_spec(yaml.safe_load(config["data"]["job.yaml"]), origin="rayjob.yaml"), name="shelves"
    )
    assert all(isinstance(value, str) for value in metadata.values())
    assert metadata == {**submission.metadata, "base": run_id}
    details = {"submission_id": run_id, "status": "RUNNING", "message": "", "driver_exit_code": None}
    listed = parse_job(SimpleNamespace(metadata=metadata, start_time=0, end_time=0, **details))
    expected = (run_id, run_id, "shelves", "s3://acme-tags/shelves")
    assert (listed.run_id, listed.base, listed.name, listed.out) == expected
    assert f" --run-id {run_id} " in job["spec"]["entrypoint"], "its records are found by the id that Ray has"


def test_kuberay_restarts_a_failed_job_only_once(rayjob: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """KubeRay restarts a job whatever its exit code, each time with a new cluster."""
    assert rayjob[1]["spec"]["backoffLimit"] == 1


def test_the_grafana_dashboard_draws_only_metrics_that_are_exported() -> None:
    source = (ROOT / "batchtag" / "runs" / "ray_metrics.py").read_text()
    exported = {f"ray_{name}" for name in re.findall(r'"(batchtag_[a-z_]+)"', source)}
    dashboard = json.loads((ROOT / "deploy" / "grafana.json").read_text())
    drawn = {
        name
        for panel in dashboard["panels"]
        for target in panel["targets"]
        for name in re.findall(r"ray_batchtag_[a-z_]+", target["expr"])
    }
    assert drawn
    assert drawn <= exported
