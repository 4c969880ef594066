"""Published models give the answers of torchvision's documented use, for every builder, and refuse clearly."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import models as torchvision_models
from torchvision.transforms.functional import pil_to_tensor

from batchtag.config.model import CheckpointSpec, TorchvisionSpec
from batchtag.errors import ModelError, UsageError
from batchtag.models import Runtime, load, prepare
from batchtag.models.checkpoint.checkpoint_writer import CheckpointContent, save_checkpoint
from batchtag.models.detector import keep_only_box_heads
from batchtag.models.preprocessing import Preprocessing
from batchtag.models.torchvision.architectures import build_network, limit_arguments, untrained_arguments
from batchtag.models.torchvision.zoo import list_builders
from batchtag.types import Prediction
from tests.support.alike import assert_alike

SMALL = "fasterrcnn_mobilenet_v3_large_320_fpn"
LARGE = "fasterrcnn_resnet50_fpn_v2"
DETECTOR_FAMILIES = [SMALL, "keypointrcnn_resnet50_fpn", "retinanet_resnet50_fpn", "ssdlite320_mobilenet_v3_large"]
"""Detectors of the fast tier: one of each way to name thresholds, to resize, and to have more than a box head."""
DETECTORS = [
    name if name in DETECTOR_FAMILIES else pytest.param(name, marks=pytest.mark.slow)
    for name in list_builders("detect")
]
COCO_LABELS = torchvision_models.detection.FasterRCNN_ResNet50_FPN_V2_Weights.DEFAULT.meta["categories"]

RUNTIMES = [
    Runtime(batch_size=1),
    Runtime(batch_size=2),
    Runtime(batch_size=5),
    Runtime(threads=2),
    Runtime(engine="openvino", threads=2),
]
"""Ways to compute, all with the same predictions."""

Photos = list[Image.Image]
BuildDetector = Callable[..., nn.Module]
MakeDetector = Callable[..., tuple[nn.Module, str]]
Shuffled = Callable[[Any, int], list[int]]


def untrained(builder: str, **fields: Any) -> TorchvisionSpec:
    return TorchvisionSpec(builder=builder, weights="none", **fields)


def run_as_documented(network: nn.Module, photo: Image.Image) -> dict[str, Any]:
    """Run a detector on one photo as torchvision's documentation does, and drop the labels that are not tags."""
    with torch.inference_mode():
        output = network([pil_to_tensor(photo) / 255])[0]
    labels = output["labels"].tolist()
    tags = [i for i, label in enumerate(labels) if COCO_LABELS[label] not in ("N/A", "__background__")]
    return {name: column[tags].numpy() for name, column in output.items()}


def assert_equal_to_torchvision(ours: Prediction, theirs: dict[str, Any]) -> None:
    np.testing.assert_array_equal(ours.label_ids, theirs["labels"])
    np.testing.assert_allclose(ours.scores, theirs["scores"], atol=0.005)
    np.testing.assert_allclose(ours.boxes_xyxy, theirs["boxes"], atol=0.5)


def assert_same_boxes(ours: Prediction, theirs: dict[str, Any], runtime: Runtime) -> None:
    """Compare box by box. Two boxes with one score may be swapped, because folded batch norms round differently.

    These weights are random and amplify rounding: a difference of 1e-6 in a feature became 4e-4 in a score. Trained
    weights do not.
    """
    tolerance = {"pixels": 0.1, "score": 0.001} if runtime.engine == "torch" else {}
    expected = theirs["labels"], theirs["scores"], theirs["boxes"]
    assert_alike((ours.label_ids, ours.scores, ours.boxes_xyxy), expected, **tolerance)


@pytest.fixture(scope="module")
def make_detector(responsive_detector: BuildDetector, tmp_path_factory: pytest.TempPathFactory) -> MakeDetector:
    """A function that returns a network for torchvision, and a checkpoint of the same weights for us."""

    def make(builder: str, **arguments: Any) -> tuple[nn.Module, str]:
        network = responsive_detector(builder, box_score_thresh=0.05, **arguments)
        folder = tmp_path_factory.mktemp("checkpoint") / builder
        content = CheckpointContent(
            architecture=builder,
            arguments=arguments,
            labels=COCO_LABELS,
            task="detect",
            preprocessing={},
            state_dict=network.state_dict(),
        )
        save_checkpoint(str(folder), content)
        return network, str(folder)

    return make


def test_a_detector_gives_torchvision_s_boxes_in_any_batch_and_with_any_runtime(
    make_detector: MakeDetector, photos: Photos, shuffled: Shuffled
) -> None:
    network, uri = make_detector(SMALL)
    theirs = [run_as_documented(network, photo) for photo in photos]
    assert min(len(output["scores"]) for output in theirs) > 50
    for seed, runtime in enumerate(RUNTIMES):
        model = load(CheckpointSpec(uri=uri), runtime=runtime)
        order = shuffled(photos, seed)
        for i, ours in zip(order, model.predict([np.asarray(photos[i]) for i in order]), strict=True):
            assert_same_boxes(ours, theirs[i], runtime)


def test_torchvision_itself_gives_a_photo_other_boxes_beside_a_wider_one(
    responsive_detector: BuildDetector, photos: Photos
) -> None:
    """This is the reason for batches of one shape, and the proof that the test above would notice."""
    network = responsive_detector(SMALL, box_score_thresh=0.05)
    upright = next(photo for photo in photos if photo.height > photo.width)
    wide = next(photo for photo in photos if photo.width > photo.height)
    with torch.inference_mode():
        beside = network([pil_to_tensor(upright) / 255, pil_to_tensor(wide) / 255])[0]
        alone = network([pil_to_tensor(upright) / 255])[0]
    assert abs(beside["boxes"][:20] - alone["boxes"][:20]).max() > 0.5


@pytest.mark.slow
def test_the_large_detector_gives_torchvision_s_boxes(make_detector: MakeDetector, photos: Photos) -> None:
    """At a third of its size, in a tenth of the time; `python -m benchmarks.speed` compares it at full size."""
    network, uri = make_detector(LARGE, min_size=256)
    pair = photos[:2]
    theirs = [run_as_documented(network, photo) for photo in pair]
    assert min(len(output["scores"]) for output in theirs) > 50
    for runtime in (Runtime(batch_size=2), Runtime(engine="openvino")):
        predictions = load(CheckpointSpec(uri=uri), runtime=runtime).predict([np.asarray(photo) for photo in pair])
        for ours, expected in zip(predictions, theirs, strict=True):
            assert_same_boxes(ours, expected, runtime)


@pytest.mark.parametrize(
    "runtime",
    [
        pytest.param(Runtime(), id="torch"),
        pytest.param(Runtime(engine="openvino"), id="openvino", marks=pytest.mark.slow),
    ],
)
def test_a_flat_first_image_does_not_change_the_boxes_of_later_images(
    runtime: Runtime, make_detector: MakeDetector, photos: Photos
) -> None:
    """torchvision takes the scales of its features from its first image; one with 18 rows of pixels misleads it."""
    network, uri = make_detector(SMALL)
    expected = run_as_documented(network, photos[0])
    model = load(CheckpointSpec(uri=uri), runtime=runtime)
    _, ours = model.predict([np.zeros((20, 700, 3), np.uint8), np.asarray(photos[0])])
    assert_same_boxes(ours, expected, runtime)


def test_an_untrained_detector_has_the_weights_of_torch_s_manual_seed(photos: Photos) -> None:
    torch.manual_seed(7)
    network = torchvision_models.get_model(SMALL, weights=None, weights_backbone=None, box_score_thresh=0.0).eval()
    model = load(untrained(SMALL, seed=7, score_floor=0.0))
    for photo in photos[:2]:
        assert_equal_to_torchvision(model.predict([np.asarray(photo)])[0], run_as_documented(network, photo))


def test_images_that_are_cropped_by_shape_equal_those_cropped_one_by_one(photos: Photos) -> None:
    """On a GPU images of one shape are cropped in one step; the order stays."""
    preprocessing = Preprocessing.from_preset(torchvision_models.get_model_weights("resnet50").DEFAULT.transforms())
    images = [pil_to_tensor(photo) for photo in (*photos, *photos[:3])] + [torch.ones(3, 1, 4000, dtype=torch.uint8)]
    expected = torch.stack([preprocessing.crop_centre(image) for image in images])
    assert torch.equal(preprocessing.crop_each_centre(images), expected)


@pytest.mark.parametrize(
    "builder",
    [
        "resnet18",
        pytest.param("resnet50", marks=pytest.mark.slow),
        pytest.param("efficientnet_b0", marks=pytest.mark.slow),
    ],
)
def test_a_classifier_gives_torchvision_s_scores_in_any_batch_and_with_any_runtime(
    builder: str, photos: Photos, shuffled: Shuffled
) -> None:
    torch.manual_seed(0)
    network = torchvision_models.get_model(builder, weights=None).eval()
    transforms = torchvision_models.get_model_weights(builder).DEFAULT.transforms()
    with torch.inference_mode():
        theirs = [network(transforms(pil_to_tensor(photo))[None]).softmax(1)[0] for photo in photos]
    for seed, runtime in enumerate(RUNTIMES):
        model = load(untrained(builder, score_floor=0.0), runtime=runtime)
        order = shuffled(photos, seed)
        for i, ours in zip(order, model.predict([np.asarray(photos[i]) for i in order]), strict=True):
            np.testing.assert_allclose(ours.scores, theirs[i].topk(5).values.numpy(), atol=0.005)
            np.testing.assert_allclose(ours.scores, theirs[i][ours.label_ids.tolist()].numpy(), atol=0.005)


def test_an_image_that_is_too_elongated_for_a_detector_is_refused_before_anything_runs() -> None:
    model = load(untrained(SMALL))
    with pytest.raises(ValueError, match="4000 x 1 pixels is too elongated"):
        model.predict([np.zeros((1, 4000, 3), np.uint8)])


def test_a_very_elongated_image_is_classified_by_its_centre_without_being_enlarged() -> None:
    """Resizing 1 x 4000 pixels by the shorter side would make 256 x 1,024,000 pixels."""
    rng = np.random.default_rng(0)
    ends, middle = rng.integers(0, 256, (2, 1936, 3), dtype=np.uint8), rng.integers(0, 256, (1, 128, 3), dtype=np.uint8)
    line = np.concatenate([ends[:1], middle, ends[1:]], axis=1)
    whole = np.broadcast_to(line, (1, 4000, 3))
    model = load(untrained("squeezenet1_1", score_floor=0.0))
    transforms = torchvision_models.SqueezeNet1_1_Weights.DEFAULT.transforms()
    centre = transforms(torch.from_numpy(line[:, 1700:2300].copy()).permute(2, 0, 1))
    torch.manual_seed(0)
    reference = torchvision_models.squeezenet1_1(weights=None).eval()
    with torch.inference_mode():
        expected = reference(centre[None]).softmax(1)[0].topk(5)
    for image in (whole, whole.transpose(1, 0, 2).copy().transpose(1, 0, 2)):
        np.testing.assert_allclose(model.predict([image])[0].scores, expected.values.numpy(), atol=0.005)


def test_every_detector_has_a_model_info_with_its_input_resolution_and_its_labels() -> None:
    infos = [prepare(untrained(builder)) for builder in list_builders("detect")]
    assert len(infos) >= 12
    for info in infos:
        assert info.kind == "object"
        assert info.input_resolution.mode == ("stretch" if info.name.startswith("ssd") else "fit")
        assert min(info.input_resolution.shorter_px, info.input_resolution.longer_px) >= 300
        assert info.gflops > 0.5
        assert info.labels[:2] == ("", "person")
        assert "N/A" not in info.labels


def test_every_classifier_has_a_model_info_with_its_input_resolution_and_its_labels() -> None:
    infos = [prepare(untrained(builder)) for builder in list_builders("classify")]
    assert len(infos) >= 80
    for info in infos:
        assert info.kind == "class"
        assert info.input_resolution.mode == "cover"
        assert info.input_resolution.shorter_px >= 224
        assert len(info.labels) == 1000
    assert len({info.digest for info in infos}) == len(infos)


@pytest.mark.parametrize("builder", DETECTORS)
def test_every_detector_has_the_score_floor_and_the_max_tags_of_the_job(builder: str) -> None:
    arguments = untrained_arguments(builder, task="detect") | limit_arguments(builder, score_floor=0.25, max_tags=3)
    with torch.device("meta"):
        network: Any = build_network(builder, arguments)
    heads = getattr(network, "roi_heads", network)
    assert (heads.score_thresh, heads.detections_per_img) == (0.25, 3)


@pytest.mark.parametrize("builder", ["maskrcnn_resnet50_fpn", "keypointrcnn_resnet50_fpn"])
def test_heads_whose_answers_are_not_used_are_not_computed(builder: str) -> None:
    with torch.device("meta"):
        network = keep_only_box_heads(build_network(builder, untrained_arguments(builder, task="detect")))
    heads: Any = network.roi_heads
    assert not heads.has_mask()
    assert not heads.has_keypoint()


@pytest.mark.parametrize(
    "builder",
    [
        "googlenet",
        pytest.param("inception_v3", marks=pytest.mark.slow),
        pytest.param("vit_b_16", marks=pytest.mark.slow),
    ],
)
def test_builders_that_warn_or_have_one_input_size_are_built_without_a_warning_and_predict(builder: str) -> None:
    model = load(untrained(builder, score_floor=0.0))
    assert len(model.predict([np.zeros((50, 70, 3), np.uint8)])[0].scores) == 5


def test_loading_leaves_the_random_numbers_of_the_process_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load(untrained("squeezenet1_1"))
    assert torch.equal(torch.rand(3), expected)


def test_the_same_seed_gives_the_same_digest_and_another_seed_another_one() -> None:
    digests = [prepare(untrained("resnet18", seed=seed)).digest for seed in (0, 0, 1)]
    assert digests[0] == digests[1] != digests[2]


def test_names_of_weights_may_be_written_in_any_case() -> None:
    assert prepare(TorchvisionSpec(builder="resnet18", weights="None")) == prepare(untrained("resnet18"))


def test_an_unknown_builder_is_refused_with_the_nearest_names() -> None:
    with pytest.raises(UsageError, match="builder is called 'resnet5'; did you mean 'resnet50'"):
        prepare(untrained("resnet5"))
    with pytest.raises(UsageError, match="`batchtag models` lists all"):
        prepare(untrained("qqq"))


def test_unknown_weights_are_refused_with_the_existing_names() -> None:
    known = "choose one of DEFAULT, IMAGENET1K_V1, IMAGENET1K_V2"
    with pytest.raises(ModelError, match=f"resnet50 has no weights 'V9'; {known}"):
        prepare(TorchvisionSpec(builder="resnet50", weights="V9"))
    with pytest.raises(ModelError, match="vgg16 has no weights 'IMAGENET1K_FEATURES'"):
        prepare(TorchvisionSpec(builder="vgg16", weights="IMAGENET1K_FEATURES"))


def test_a_builder_of_the_other_task_is_refused_with_the_right_option() -> None:
    with pytest.raises(UsageError, match=r"resnet50 is a classifier, but the job asks for a detector; .*--classifier"):
        prepare(untrained("resnet50", task="detect"))
    with pytest.raises(UsageError, match=r"is a detector, but the job asks for a classifier; .*--detector"):
        prepare(untrained(SMALL, task="classify"))


def test_an_image_of_floats_is_refused_with_its_shape_and_dtype() -> None:
    image: Any = np.zeros((8, 8, 3), np.float32)
    with pytest.raises(ValueError, match=r"\(H, W, 3\) uint8 with at least one pixel, got \(8, 8, 3\) float32"):
        load(untrained("squeezenet1_1")).predict([image])


def test_the_read_only_arrays_of_pillow_are_accepted_without_a_warning() -> None:
    """torch warns about read-only arrays, and warnings are errors in the tests."""
    file = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(file, "JPEG")
    image = np.asarray(Image.open(file))
    assert load(untrained("squeezenet1_1", score_floor=0.0)).predict([image])
