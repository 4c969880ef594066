"""A training process without Ray: that it learns, repeats itself, resumes and saves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from batchtag import models
from batchtag.config.model import CheckpointSpec
from batchtag.evaluation.scoring import score_tags
from batchtag.output.schemas import tags_table
from batchtag.pipeline.tagger import tag_images
from batchtag.training.data import make_loader
from batchtag.training.events import EpochDone, TrainingEvent
from batchtag.training.loop import TrainingProcess
from batchtag.training.network import build_network

from .conftest import classification_job, detection_job, draw_boxes, make_process, plan_job, read_job_data, train


def copy_weights(process: TrainingProcess) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in process.trainable.network.state_dict().items()}


def assert_same_tensors(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def test_one_epoch_trains_and_the_checkpoint_loads_and_predicts(colours: Path, tmp_path: Path) -> None:
    events: list[TrainingEvent] = []
    process = train(make_process(classification_job(colours, tmp_path / "out", epochs=1), on_event=events.append))
    score = process.evaluate_best()
    assert score is not None
    digest = process.save_checkpoint(score)
    spec = CheckpointSpec(uri=str(tmp_path / "out"), score_floor=0.0)
    info = models.prepare(spec)
    (result,) = tag_images([str(colours / "red" / "000.png")], [(info, models.load(spec))])
    assert result.failure is None
    assert len(tags_table([result], run_id="")) == 2
    assert digest in (tmp_path / "out" / "model.json").read_text()
    assert [event.entry["epoch"] for event in events if isinstance(event, EpochDone)] == [1]


@pytest.mark.slow
def test_a_detector_learns_to_find_boxes(boxes: Path, tmp_path: Path) -> None:
    process = train(make_process(detection_job(boxes, tmp_path, epochs=5, ema=0.8, evaluate_every=5)))
    first, *_, last = (entry["loss"] for entry in process.state.history)
    assert last < 0.8 * first
    assert process.state.history[-1]["AR100"] > 0


@pytest.mark.slow
def test_a_classifier_learns_to_tell_colours_apart(colours: Path, tmp_path: Path) -> None:
    job = classification_job(colours, tmp_path, epochs=10, class_balance="repeat")
    job["network"]["architecture"] = "resnet18"
    process = train(make_process(job))
    assert process.state.best_value == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("make_job", [detection_job, classification_job])
def test_the_same_seed_gives_the_same_weights_with_any_number_of_loaders(
    make_job: object, boxes: Path, colours: Path, tmp_path: Path
) -> None:
    folder = boxes if make_job is detection_job else colours
    job = make_job(folder, tmp_path, epochs=2)  # type: ignore[operator]
    without_loaders = copy_weights(train(make_process(job)))
    with_one_loader = copy_weights(train(make_process(job | {"compute": {"loaders": 1}})))
    assert_same_tensors(without_loaders, with_one_loader)
    other_job = make_job(folder, tmp_path, epochs=2, seed=1)  # type: ignore[operator]
    other = copy_weights(train(make_process(other_job)))
    assert not torch.equal(next(iter(without_loaders.values())), next(iter(other.values())))


@pytest.mark.parametrize("settings", [{"ema": 0.9}, pytest.param({"optimizer": "sgd"}, marks=pytest.mark.slow)])
def test_a_resumed_training_equals_one_that_never_stopped(
    settings: dict[str, object], colours: Path, tmp_path: Path
) -> None:
    job = classification_job(colours, tmp_path, epochs=4, **settings)
    uninterrupted = train(make_process(job))
    first = make_process(job)
    first.run_epoch()
    first.run_epoch()
    first.write_state(tmp_path)
    resumed = make_process(job)
    resumed.resume_from(tmp_path)
    train(resumed)
    assert_same_tensors(copy_weights(uninterrupted), copy_weights(resumed))
    assert_same_tensors(uninterrupted.state.best, resumed.state.best)
    histories = [
        [{name: value for name, value in entry.items() if name != "seconds"} for entry in process.state.history]
        for process in (uninterrupted, resumed)
    ]
    assert histories[0] == histories[1]


def test_a_state_contains_no_pickle(colours: Path, tmp_path: Path) -> None:
    process = make_process(classification_job(colours, tmp_path))
    process.run_epoch()
    process.write_state(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state.json", "state.safetensors"]


def test_training_stops_early_when_no_epoch_gets_better(colours: Path, tmp_path: Path) -> None:
    """With a learning rate of almost zero the first epoch remains the best."""
    process = train(make_process(classification_job(colours, tmp_path, epochs=9, patience=2, learning_rate=1e-12)))
    assert process.state.epochs_done == 3
    assert process.state.best_epoch == 1


@pytest.mark.parametrize("make_job", [detection_job, classification_job])
def test_the_stored_checkpoint_has_exactly_the_measured_score(
    make_job: object, boxes: Path, colours: Path, tmp_path: Path
) -> None:
    """Stored as float16 and loaded as in a run: the same metrics to the last digit."""
    is_detection = make_job is detection_job
    job = make_job(boxes if is_detection else colours, tmp_path / "out", epochs=3)  # type: ignore[operator]
    job["output"]["weights"] = "float16"
    process = train(make_process(job))
    measured = process.evaluate_best()
    assert measured is not None
    process.save_checkpoint(measured)
    spec = CheckpointSpec(uri=str(tmp_path / "out"), score_floor=0.05 if is_detection else 0.0, max_tags=100)
    info, val = models.prepare(spec), read_job_data(job).val
    results = tag_images([image.uri for image in val.images], [(info, models.load(spec))])
    again = score_tags(tags_table(results, run_id=""), val.images, val.labels, is_detection=is_detection)
    assert again.metrics.as_dict() == measured.metrics.as_dict()
    assert dict(info.thresholds) == measured.metrics.thresholds()


def test_a_loss_that_is_not_finite_stops_the_training_and_says_what_to_change(colours: Path, tmp_path: Path) -> None:
    job = classification_job(colours, tmp_path, learning_rate=1e30, warmup_epochs=0, clip_norm=0, epochs=20)
    with pytest.raises(FloatingPointError, match=r"the loss is nan in step \d+; .*Lower train.learning_rate"):
        train(make_process(job))


def test_a_rotated_image_trains_in_the_frame_in_which_it_is_displayed(tmp_path: Path) -> None:
    folder = draw_boxes(tmp_path / "rotated", num_images=1)
    job = detection_job(folder, tmp_path / "out")
    job["data"]["val"] = job["data"]["train"]
    job["data"]["on_problem"] = {"leak": "keep", "empty_class": "keep"}
    upright = Image.open(folder / "000.png").crop((0, 0, 96, 80))
    _set_annotated_height(folder, height=80)
    exif = Image.Exif()
    exif[0x0112] = 6
    upright.save(folder / "000.png")
    stored_upright = _read_first_image(job)
    upright.transpose(Image.Transpose.ROTATE_90).save(folder / "000.png", exif=exif)
    stored_rotated = _read_first_image(job)
    assert torch.equal(stored_upright[0], stored_rotated[0])
    assert torch.equal(stored_upright[1]["boxes"], stored_rotated[1]["boxes"])


def _read_first_image(job: dict[str, object]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    plan = plan_job(job)
    loader = make_loader(plan, build_network(plan))
    ((pixels,), (target,)) = next(iter(loader.start_epoch([0], seed=0, epoch=1)))
    return pixels, target


def _set_annotated_height(folder: Path, *, height: int) -> None:
    text = (folder / "instances.json").read_text()
    (folder / "instances.json").write_text(text.replace('"height": 96', f'"height": {height}'))
