"""A training process by itself, without Ray: what it learns, repeats, goes on from and saves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from batchtag import models
from batchtag.config.model import CheckpointSpec
from batchtag.evaluation.scoring import score_tags
from batchtag.output.schemas import tags_table
from batchtag.pipeline.tagger import predict
from batchtag.training.loop import Worker

from .conftest import classification_job, data_of, detection_job, draw_boxes, plan_of, worker_of


def trained(worker: Worker) -> Worker:
    while not worker.state.is_over:
        worker.epoch()
    return worker


def weights(worker: Worker) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in worker.made.network.state_dict().items()}


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def test_a_detector_learns_what_it_is_shown(boxes: Path, tmp_path: Path) -> None:
    worker = trained(worker_of(detection_job(boxes, tmp_path, epochs=5, ema=0.8, evaluate_every=5)))
    first, *_, last = (entry["loss"] for entry in worker.state.history)
    assert last < 0.8 * first
    assert worker.state.history[-1]["AR100"] > 0


def test_a_classifier_learns_what_it_is_shown(colours: Path, tmp_path: Path) -> None:
    content = classification_job(colours, tmp_path, epochs=10, class_balance="repeat")
    content["network"]["architecture"] = "resnet18"
    worker = trained(worker_of(content))
    assert worker.state.best_value == 1.0


@pytest.mark.parametrize("job", [detection_job, classification_job])
def test_the_same_seed_gives_the_same_weights_however_many_open_the_images(
    job: object, boxes: Path, colours: Path, tmp_path: Path
) -> None:
    folder = boxes if job is detection_job else colours
    content = job(folder, tmp_path, epochs=2)  # type: ignore[operator]
    one = weights(trained(worker_of(content)))
    assert_same(one, weights(trained(worker_of(content | {"compute": {"loaders": 1}}))))
    other = job(folder, tmp_path, epochs=2, seed=1)  # type: ignore[operator]
    assert not torch.equal(next(iter(one.values())), next(iter(weights(trained(worker_of(other))).values())))


@pytest.mark.parametrize("train", [{"ema": 0.9}, {"optimizer": "sgd"}])
def test_going_on_from_an_epochs_end_equals_never_having_stopped(
    train: dict[str, object], colours: Path, tmp_path: Path
) -> None:
    content = classification_job(colours, tmp_path, epochs=4, **train)
    whole = trained(worker_of(content))
    first = worker_of(content)
    first.epoch()
    first.epoch()
    first.write_state(tmp_path)
    second = worker_of(content)
    second.go_on_from(tmp_path)
    trained(second)
    assert_same(weights(whole), weights(second))
    assert_same(whole.state.best, second.state.best)
    timeless = [[{k: v for k, v in e.items() if k != "seconds"} for e in w.state.history] for w in (whole, second)]
    assert timeless[0] == timeless[1]


def test_a_state_holds_no_pickle(colours: Path, tmp_path: Path) -> None:
    worker = worker_of(classification_job(colours, tmp_path))
    worker.epoch()
    worker.write_state(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state.json", "state.safetensors"]


def test_training_stops_when_nothing_gets_better(colours: Path, tmp_path: Path) -> None:
    """A rate of next to nothing: the first epoch stays the best."""
    worker = trained(worker_of(classification_job(colours, tmp_path, epochs=9, patience=2, learning_rate=1e-12)))
    assert worker.state.epochs_done == 3
    assert worker.state.best_epoch == 1


@pytest.mark.parametrize("job", [detection_job, classification_job])
def test_what_was_measured_is_what_the_checkpoint_gives(
    job: object, boxes: Path, colours: Path, tmp_path: Path
) -> None:
    """Saved as float16, loaded by the line's own door: the same figures to the last digit."""
    folder = boxes if job is detection_job else colours
    content = job(folder, tmp_path / "out", epochs=3)  # type: ignore[operator]
    content["output"]["weights"] = "float16"
    worker = trained(worker_of(content))
    measured = worker.judge_best()
    assert measured is not None
    worker.save(measured)
    is_detection = job is detection_job
    spec = CheckpointSpec(uri=str(tmp_path / "out"), score_floor=0.05 if is_detection else 0.0, max_tags=100)
    info, val = models.prepare(spec), data_of(content).val
    outcomes = predict([image.uri for image in val.images], [(info, models.load(spec))])
    again = score_tags(tags_table(outcomes, run_id=""), val.images, val.labels, is_detection=is_detection)
    assert again.metrics.as_dict() == measured.metrics.as_dict()
    assert dict(info.thresholds) == measured.metrics.thresholds()


def test_a_loss_that_is_no_number_ends_training_with_what_to_change(colours: Path, tmp_path: Path) -> None:
    worker = worker_of(
        classification_job(colours, tmp_path, learning_rate=1e30, warmup_epochs=0, clip_norm=0, epochs=20)
    )
    with pytest.raises(FloatingPointError, match=r"the loss became nan in step \d+; lower train.learning_rate"):
        trained(worker)


def test_a_image_that_is_stored_turned_trains_in_the_frame_it_is_displayed_in(tmp_path: Path) -> None:
    folder = draw_boxes(tmp_path / "turned", num_images=1)
    content = detection_job(folder, tmp_path / "out")
    content["data"]["val"] = content["data"]["train"]
    content["data"]["on_problem"] = {"leak": "keep", "empty_class": "keep"}
    upright = Image.open(folder / "000.png").crop((0, 0, 96, 80))
    _shorten_ground_truth(folder, height=80)
    exif = Image.Exif()
    exif[0x0112] = 6
    upright.save(folder / "000.png")
    plain = worker_of(content)._loader._loader.dataset[(0, 7)]
    upright.transpose(Image.Transpose.ROTATE_90).save(folder / "000.png", exif=exif)
    turned = worker_of(content)._loader._loader.dataset[(0, 7)]
    assert torch.equal(plain[0], turned[0])
    assert torch.equal(plain[1]["boxes"], turned[1]["boxes"])


def _shorten_ground_truth(folder: Path, *, height: int) -> None:
    text = (folder / "instances.json").read_text()
    (folder / "instances.json").write_text(text.replace('"height": 96', f'"height": {height}'))


def test_a_metric_of_the_other_task_is_refused(colours: Path, tmp_path: Path) -> None:
    from batchtag.errors import UsageError

    with pytest.raises(
        UsageError, match=r"train.metric is 'AP50', and these data are to classify; it must be accuracy"
    ):
        plan_of(classification_job(colours, tmp_path, metric="AP50"))
