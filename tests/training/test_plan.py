from __future__ import annotations

from pathlib import Path

import pytest

from batchtag.errors import UsageError
from batchtag.training.plan import Node, cores_per_process

from .conftest import classification_job, plan_job


def test_a_metric_of_the_other_task_is_refused(colours: Path, tmp_path: Path) -> None:
    message = "train.metric is 'AP50', but the task of the data is 'classify'; it must be accuracy or macro_f1"
    with pytest.raises(UsageError, match=message):
        plan_job(classification_job(colours, tmp_path, metric="AP50"))


def test_each_training_process_gets_the_most_cores_that_all_can_have() -> None:
    nodes = [Node(cores=8, gpus=2), Node(cores=4, gpus=1)]
    assert cores_per_process(nodes, num_processes=3, use_gpu=False) == 4
    assert cores_per_process(nodes, num_processes=3, use_gpu=True) == 4
    assert cores_per_process(nodes, num_processes=1, use_gpu=False) == 8


def test_more_training_processes_than_the_cluster_can_run_are_refused() -> None:
    nodes = [Node(cores=4, gpus=1)]
    with pytest.raises(UsageError, match=r"compute.workers is 2 .* has 4 cores and 1 GPUs; set compute.workers to 1"):
        cores_per_process(nodes, num_processes=2, use_gpu=True)
    with pytest.raises(UsageError, match=r"asks for a GPU for each worker, but the cluster has 4 cores and 0 GPUs"):
        cores_per_process([Node(cores=4, gpus=0)], num_processes=1, use_gpu=True)


def test_unless_the_job_says_otherwise_one_core_loads_images_and_the_others_train(
    colours: Path, tmp_path: Path
) -> None:
    job = classification_job(colours, tmp_path)
    plan = plan_job(job, cores=4)
    assert (plan.num_loaders, plan.num_torch_threads) == (0, 4)
    del job["compute"]
    plan = plan_job(job, cores=4)
    assert (plan.num_loaders, plan.num_torch_threads) == (1, 3)
