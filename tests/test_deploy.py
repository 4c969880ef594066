"""The files that make clusters are what Ray and KubeRay accept, secure by default, and of one Ray version."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from batchtag.spec import make_spec

ROOT = Path(__file__).parents[1]
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
"""Of ray.io/v1, as KubeRay's `rayjob_types.go` and `raycluster_types.go` publish them."""


def ray_of_the_lock() -> str:
    found = re.search(r"^ray(?:\[[a-z,]+\])?==([\d.]+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert found
    return found[1]


@pytest.fixture(scope="module")
def cluster() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    return content


@pytest.fixture(scope="module")
def rayjob() -> tuple[dict[str, Any], dict[str, Any]]:
    config, job = yaml.safe_load_all((ROOT / "deploy" / "rayjob.yaml").read_text())
    return config, job


def test_ray_accepts_the_cluster_file(cluster: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(cluster))


def test_the_cluster_grows_spot_machines_of_several_kinds_and_its_head_does_no_work(cluster: dict[str, Any]) -> None:
    kinds = cluster["available_node_types"]
    assert kinds[cluster["head_node_type"]]["resources"] == {"CPU": 0}
    workers = {name: kind for name, kind in kinds.items() if name != cluster["head_node_type"]}
    assert all(kind["min_workers"] == 0 < kind["max_workers"] for kind in workers.values())
    assert all(kind["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"} for kind in workers.values())
    assert sum("GPU" in kind["resources"] for kind in workers.values()) >= 2
    assert any("GPU" not in kind["resources"] for kind in workers.values())
    assert cluster["max_workers"] == sum(kind["max_workers"] for kind in workers.values())


def test_the_cluster_asks_for_a_token_keeps_its_dashboard_private_and_holds_no_key(cluster: dict[str, Any]) -> None:
    assert cluster["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    head, worker = " ".join(cluster["head_start_ray_commands"]), " ".join(cluster["worker_start_ray_commands"])
    assert "RAY_AUTH_MODE=token" in head
    assert "RAY_AUTH_MODE=token" in worker
    assert "--dashboard-host=127.0.0.1" in head
    profiles = {
        name: kind["node_config"]["IamInstanceProfile"]["Name"]
        for name, kind in cluster["available_node_types"].items()
    }
    head_s = profiles.pop(cluster["head_node_type"])
    assert head_s not in profiles.values(), "a head may start machines, whoever tags may not"
    assert "aws_secret" not in (ROOT / "cluster.yaml").read_text().lower()


def test_ray_has_one_version_everywhere(cluster: dict[str, Any], rayjob: tuple[dict[str, Any], dict[str, Any]]) -> None:
    version = ray_of_the_lock()
    assert cluster["docker"]["image"].startswith(f"rayproject/ray:{version}-")
    assert rayjob[1]["spec"]["rayClusterSpec"]["rayVersion"] == version
    assert f"FROM rayproject/ray:{version}-" in (ROOT / "deploy" / "Dockerfile").read_text()


def test_kuberay_knows_every_field_of_the_rayjob(rayjob: tuple[dict[str, Any], dict[str, Any]]) -> None:
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


def test_the_rayjob_asks_for_a_token_and_its_job_is_one_that_run_accepts(
    rayjob: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    config, job = rayjob
    assert job["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    assert job["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    spec = make_spec(yaml.safe_load(config["data"]["job.yaml"]), origin="rayjob.yaml")
    groups = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert [(kind.nodes, kind.cpus, kind.gpus) for kind in spec.compute.may_grow_to] == [
        (group["maxReplicas"], float(asked["cpu"]), float(asked.get("nvidia.com/gpu", 0)))
        for group in groups
        for asked in [group["template"]["spec"]["containers"][0]["resources"]["requests"]]
    ]
    assert job["spec"]["entrypoint"].endswith(" /jobs/job.yaml")


def test_the_dashboard_draws_metrics_that_there_are_and_the_readme_names_them_all() -> None:
    source = (ROOT / "batchtag" / "prometheus.py").read_text()
    defined = {f"ray_{name}" for name in re.findall(r'"(batchtag_[a-z_]+)"', source)}
    dashboard = json.loads((ROOT / "deploy" / "grafana.json").read_text())
    drawn = {
        name
        for panel in dashboard["panels"]
        for target in panel["targets"]
        for name in re.findall(r"ray_batchtag_[a-z_]+", target["expr"])
    }
    assert drawn <= defined
    assert defined <= set(re.findall(r"ray_batchtag_[a-z_]+", (ROOT / "README.md").read_text()))
