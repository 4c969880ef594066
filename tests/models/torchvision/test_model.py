"""Published models: the same answers as torchvision's documented use, for every builder, and clear refusals."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import models as published
from torchvision.transforms.functional import pil_to_tensor

from batchtag.config.model import CheckpointSpec, TorchvisionSpec
from batchtag.errors import ModelError, UsageError
from batchtag.models import Runtime, load, prepare
from batchtag.models.checkpoint.model import save_checkpoint
from batchtag.models.detector import only_boxes
from batchtag.models.preprocessing import Preprocessing
from batchtag.models.torchvision.architectures import build, limits, untrained_arguments
from batchtag.models.torchvision.zoo import builders
from batchtag.types import Prediction
from tests.support.alike import assert_alike

SMALL = "fasterrcnn_mobilenet_v3_large_320_fpn"
LARGE = "fasterrcnn_resnet50_fpn_v2"

WAYS = [
    Runtime(batch_size=1),
    Runtime(batch_size=2),
    Runtime(batch_size=5),
    Runtime(threads=2),
    Runtime(engine="openvino", threads=2),
]
"""Of computing: each has to give the same."""

Photos = list[Image.Image]
Awake = Callable[..., nn.Module]
Seeing = Callable[..., tuple[nn.Module, str]]
Shuffled = Callable[[Any, int], list[int]]


def untrained(builder: str, **more: Any) -> TorchvisionSpec:
    return TorchvisionSpec(builder=builder, weights="none", **more)


def documented(network: nn.Module, photo: Image.Image) -> dict[str, Any]:
    """One photo through a detector as torchvision's documentation does it, without the labels that are no tags."""
    with torch.inference_mode():
        found = network([pil_to_tensor(photo) / 255])[0]
    categories = published.detection.FasterRCNN_ResNet50_FPN_V2_Weights.DEFAULT.meta["categories"]
    tags = [i for i, label in enumerate(found["labels"].tolist()) if categories[label] not in ("N/A", "__background__")]
    return {name: column[tags].numpy() for name, column in found.items()}


def assert_equal_to_torchvision(ours: Prediction, theirs: dict[str, Any]) -> None:
    np.testing.assert_array_equal(ours.label_ids, theirs["labels"])
    np.testing.assert_allclose(ours.scores, theirs["scores"], atol=0.005)
    np.testing.assert_allclose(ours.boxes_xyxy, theirs["boxes"], atol=0.5)


def assert_says_the_same(ours: Prediction, theirs: dict[str, Any], way: Runtime) -> None:
    """Box by box. Of two boxes with one score either may be first: folded batch norms round otherwise.

    These weights are random, and chaotic: 1e-6 of a feature became 4e-4 of a score. Trained ones are not.
    """
    closeness = {"pixels": 0.1, "score": 0.001} if way.engine == "torch" else {}
    said = theirs["labels"], theirs["scores"], theirs["boxes"]
    assert_alike((ours.label_ids, ours.scores, ours.boxes_xyxy), said, **closeness)


@pytest.fixture(scope="module")
def seeing(awake_detector: Awake, tmp_path_factory: pytest.TempPathFactory) -> Seeing:
    """A network that torchvision runs as documented, and a checkpoint of the same weights for us to run."""

    def both(builder: str, **arguments: Any) -> tuple[nn.Module, str]:
        network = awake_detector(builder, box_score_thresh=0.05, **arguments)
        folder = tmp_path_factory.mktemp("checkpoint") / builder
        save_checkpoint(
            str(folder),
            architecture=builder,
            arguments=arguments,
            labels=published.detection.FasterRCNN_ResNet50_FPN_V2_Weights.DEFAULT.meta["categories"],
            task="detect",
            preprocessing={},
            state_dict=network.state_dict(),
        )
        return network, str(folder)

    return both


def test_a_detector_says_what_torchvision_says_whatever_the_batch_and_the_neighbours(
    seeing: Seeing, photos: Photos, shuffled: Shuffled
) -> None:
    network, uri = seeing(SMALL)
    theirs = [documented(network, photo) for photo in photos]
    assert min(len(found["scores"]) for found in theirs) > 50
    for number, way in enumerate(WAYS):
        model = load(CheckpointSpec(uri=uri), runtime=way)
        order = shuffled(photos, number)
        for i, ours in zip(order, model.predict([np.asarray(photos[i]) for i in order]), strict=True):
            assert_says_the_same(ours, theirs[i], way)


def test_torchvision_itself_gives_other_boxes_to_a_photo_with_a_wider_neighbour(
    awake_detector: Awake, photos: Photos
) -> None:
    """The reason for batches of one shape, and the proof that the test above would notice."""
    network = awake_detector(SMALL, box_score_thresh=0.05)
    upright = next(photo for photo in photos if photo.height > photo.width)
    wide = next(photo for photo in photos if photo.width > photo.height)
    with torch.inference_mode():
        beside = network([pil_to_tensor(upright) / 255, pil_to_tensor(wide) / 255])[0]
        alone = network([pil_to_tensor(upright) / 255])[0]
    assert abs(beside["boxes"][:20] - alone["boxes"][:20]).max() > 0.5


def test_the_large_detector_says_what_torchvision_says(seeing: Seeing, photos: Photos) -> None:
    """At a third of its size, a tenth of the time; `python -m benchmarks.speed` compares it at its own."""
    network, uri = seeing(LARGE, min_size=256)
    pair = photos[:2]
    theirs = [documented(network, photo) for photo in pair]
    assert min(len(found["scores"]) for found in theirs) > 50
    for way in (Runtime(batch_size=2), Runtime(engine="openvino")):
        ours = load(CheckpointSpec(uri=uri), runtime=way).predict([np.asarray(photo) for photo in pair])
        for said, expected in zip(ours, theirs, strict=True):
            assert_says_the_same(said, expected, way)


def test_a_flat_image_that_comes_first_does_not_spoil_the_ones_after_it(seeing: Seeing, photos: Photos) -> None:
    """torchvision takes the scale of its features from the first image it sees; 18 rows of pixels mislead it."""
    network, uri = seeing(SMALL)
    expected = documented(network, photos[0])
    for way in (Runtime(), Runtime(engine="openvino")):
        model = load(CheckpointSpec(uri=uri), runtime=way)
        _, ours = model.predict([np.zeros((20, 700, 3), np.uint8), np.asarray(photos[0])])
        assert_says_the_same(ours, expected, way)


def test_an_untrained_detector_has_the_weights_of_torch_s_manual_seed(photos: Photos) -> None:
    torch.manual_seed(7)
    network = published.get_model(SMALL, weights=None, weights_backbone=None, box_score_thresh=0.0).eval()
    model = load(untrained(SMALL, seed=7, score_floor=0.0))
    for photo in photos[:2]:
        assert_equal_to_torchvision(model.predict([np.asarray(photo)])[0], documented(network, photo))


def test_images_cut_out_by_shape_are_those_cut_out_one_by_one(photos: Photos) -> None:
    """As a GPU does it: one step for each shape, and the order stays."""
    preprocessing = Preprocessing.of_preset(published.get_model_weights("resnet50").DEFAULT.transforms())
    some = [pil_to_tensor(photo) for photo in (*photos, *photos[:3])] + [torch.ones(3, 1, 4000, dtype=torch.uint8)]
    expected = torch.stack([preprocessing.centre(image) for image in some])
    assert torch.equal(preprocessing.centres(some), expected)


@pytest.mark.parametrize("builder", ["resnet50", "efficientnet_b0"])
def test_a_classifier_says_what_torchvision_says_whatever_the_batch(
    builder: str, photos: Photos, shuffled: Shuffled
) -> None:
    torch.manual_seed(0)
    network = published.get_model(builder, weights=None).eval()
    transforms = published.get_model_weights(builder).DEFAULT.transforms()
    with torch.inference_mode():
        theirs = [network(transforms(pil_to_tensor(photo))[None]).softmax(1)[0] for photo in photos]
    for number, way in enumerate(WAYS):
        model = load(untrained(builder, score_floor=0.0), runtime=way)
        order = shuffled(photos, number)
        for i, ours in zip(order, model.predict([np.asarray(photos[i]) for i in order]), strict=True):
            np.testing.assert_allclose(ours.scores, theirs[i].topk(5).values.numpy(), atol=0.005)
            np.testing.assert_allclose(ours.scores, theirs[i][ours.label_ids.tolist()].numpy(), atol=0.005)


def test_a_image_too_elongated_for_a_detector_is_refused_before_anything_runs() -> None:
    model = load(untrained(SMALL))
    with pytest.raises(ValueError, match="4000 x 1 pixels is too elongated"):
        model.predict([np.zeros((1, 4000, 3), np.uint8)])


def test_a_very_elongated_image_is_classified_by_its_centre_without_becoming_enormous() -> None:
    """1 x 4000 would become 256 x 1,024,000 pixels on the way."""
    rng = np.random.default_rng(0)
    ends, middle = rng.integers(0, 256, (2, 1936, 3), dtype=np.uint8), rng.integers(0, 256, (1, 128, 3), dtype=np.uint8)
    line = np.concatenate([ends[:1], middle, ends[1:]], axis=1)
    whole = np.broadcast_to(line, (1, 4000, 3))
    model = load(untrained("squeezenet1_1", score_floor=0.0))
    network, transforms = model, published.SqueezeNet1_1_Weights.DEFAULT.transforms()
    theirs = transforms(torch.from_numpy(line[:, 1700:2300].copy()).permute(2, 0, 1))
    torch.manual_seed(0)
    reference = published.squeezenet1_1(weights=None).eval()
    with torch.inference_mode():
        expected = reference(theirs[None]).softmax(1)[0].topk(5)
    for image in (whole, whole.transpose(1, 0, 2).copy().transpose(1, 0, 2)):
        ours = network.predict([image])[0]
        np.testing.assert_allclose(ours.scores, expected.values.numpy(), atol=0.005)


@pytest.mark.parametrize("builder", builders("detect"))
def test_every_detector_has_a_info_with_its_input_and_its_labels(builder: str) -> None:
    info = prepare(untrained(builder))
    assert info.kind == "object"
    assert info.input_resolution.mode == ("stretch" if builder.startswith("ssd") else "fit")
    assert min(info.input_resolution.shorter_px, info.input_resolution.longer_px) >= 300
    assert info.gflops > 0.5
    assert info.labels[:2] == ("", "person")
    assert "N/A" not in info.labels


def test_every_classifier_has_a_info_with_its_input_and_its_labels() -> None:
    infos = [prepare(untrained(builder)) for builder in builders("classify")]
    assert len(infos) >= 80
    for info in infos:
        assert info.kind == "class"
        assert info.input_resolution.mode == "cover"
        assert info.input_resolution.shorter_px >= 224
        assert len(info.labels) == 1000
    assert len({info.digest for info in infos}) == len(infos)


@pytest.mark.parametrize("builder", builders("detect"))
def test_every_detector_obeys_the_floor_and_the_most_tags(builder: str) -> None:
    arguments = untrained_arguments(builder, task="detect") | limits(builder, score_floor=0.25, max_tags=3)
    with torch.device("meta"):
        network: Any = build(builder, arguments)
    obeys = getattr(network, "roi_heads", network)
    assert (obeys.score_thresh, obeys.detections_per_img) == (0.25, 3)


@pytest.mark.parametrize("builder", ["maskrcnn_resnet50_fpn", "keypointrcnn_resnet50_fpn"])
def test_heads_whose_answers_are_not_used_are_not_computed(builder: str) -> None:
    with torch.device("meta"):
        network = only_boxes(build(builder, untrained_arguments(builder, task="detect")))
    heads: Any = network.roi_heads
    assert not heads.has_mask()
    assert not heads.has_keypoint()


@pytest.mark.parametrize("builder", ["googlenet", "inception_v3", "vit_b_16"])
def test_builders_that_warn_or_want_one_size_are_built_quietly_and_run(builder: str) -> None:
    model = load(untrained(builder, score_floor=0.0))
    assert len(model.predict([np.zeros((50, 70, 3), np.uint8)])[0].scores) == 5


def test_loading_leaves_the_random_numbers_of_the_process_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load(untrained("squeezenet1_1"))
    assert torch.equal(torch.rand(3), expected)


def test_the_same_seed_gives_the_same_digest_and_another_seed_another() -> None:
    digests = [prepare(untrained("resnet18", seed=seed)).digest for seed in (0, 0, 1)]
    assert digests[0] == digests[1] != digests[2]


def test_names_of_weights_are_read_in_any_case() -> None:
    assert prepare(TorchvisionSpec(builder="resnet18", weights="None")) == prepare(untrained("resnet18"))


def test_an_unknown_builder_is_answered_with_the_nearest_names() -> None:
    with pytest.raises(UsageError, match="no detection or classification builder 'resnet5'; did you mean 'resnet50'"):
        prepare(untrained("resnet5"))
    with pytest.raises(UsageError, match="`batchtag models` lists all"):
        prepare(untrained("qqq"))


def test_unknown_weights_are_answered_with_the_names_there_are() -> None:
    with pytest.raises(ModelError, match="resnet50 has no weights 'V9'; it has DEFAULT, IMAGENET1K_V1, IMAGENET1K_V2"):
        prepare(TorchvisionSpec(builder="resnet50", weights="V9"))
    with pytest.raises(ModelError, match="vgg16 has no weights 'IMAGENET1K_FEATURES'"):
        prepare(TorchvisionSpec(builder="vgg16", weights="IMAGENET1K_FEATURES"))


def test_a_classifier_asked_for_as_a_detector_is_refused_and_the_other_way_round() -> None:
    with pytest.raises(UsageError, match=r"resnet50 is a classifier, and was asked for as a detector; .*--classifier"):
        prepare(untrained("resnet50", task="detect"))
    with pytest.raises(UsageError, match=r"is a detector, and was asked for as a classifier; .*--detector"):
        prepare(untrained(SMALL, task="classify"))


def test_a_float_image_is_refused_by_name() -> None:
    image: Any = np.zeros((8, 8, 3), np.float32)
    with pytest.raises(ValueError, match=r"\(H, W, 3\) uint8 with pixels in it, got \(8, 8, 3\) float32"):
        load(untrained("squeezenet1_1")).predict([image])


def test_jpeg_bytes_read_by_pillow_are_accepted_as_they_come() -> None:
    """Pillow's arrays are read-only, of which torch warns, and warnings are errors here."""
    file = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(file, "JPEG")
    image = np.asarray(Image.open(file))
    assert load(untrained("squeezenet1_1", score_floor=0.0)).predict([image])
