from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from batchtag.decoding.decoder import DecodeRules
from batchtag.decoding.subprocess_decoder import IsolatedDecoder
from batchtag.errors import Code, DecodeError, RunFailed
from tests.support.images import jpeg, oriented_jpeg

RULES = DecodeRules()


class InTheChild:
    """Calls a function where it is unpickled: what an image that kills, or never ends, does to the decoder."""

    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self._call, self._arguments = call, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self._call, self._arguments


@pytest.fixture
def child() -> Iterator[IsolatedDecoder]:
    with IsolatedDecoder(timeout_s=20) as decoder:
        yield decoder


def test_a_child_decodes_as_we_do(child: IsolatedDecoder) -> None:
    image = child.decode(oriented_jpeg(6), rules=RULES, input_resolutions=[])
    assert (image.width, image.height, image.format, image.orientation) == (48, 64, "jpeg", 6)
    assert image.pixels.shape == (64, 48, 3)
    assert tuple(image.pixels[8, 40]) == pytest.approx((255, 0, 0), abs=3)


def test_what_cannot_be_decoded_is_said_as_ever(child: IsolatedDecoder) -> None:
    with pytest.raises(DecodeError, match="looks like") as caught:
        child.decode(b"no image at all", rules=RULES, input_resolutions=[])
    assert caught.value.code is Code.UNSUPPORTED
    assert child.decode(jpeg(), rules=RULES, input_resolutions=[]).width == 64


@pytest.mark.parametrize(
    "killer",
    [InTheChild(os._exit, 9), InTheChild(os.abort), InTheChild(signal.raise_signal, signal.SIGKILL)],
    ids=["exit", "abort", "kill"],
)
def test_a_image_that_kills_the_decoder_is_crashed_and_the_next_one_works(
    child: IsolatedDecoder, killer: InTheChild
) -> None:
    child.decode(jpeg(), rules=RULES, input_resolutions=[])
    with pytest.raises(DecodeError, match="died of it") as caught:
        child.decode(jpeg(), rules=killer, input_resolutions=[])  # type: ignore[arg-type]
    assert caught.value.code is Code.CRASHED
    assert child.decode(jpeg(), rules=RULES, input_resolutions=[]).width == 64


def test_a_image_that_never_ends_is_a_timeout_and_the_next_one_works() -> None:
    with IsolatedDecoder(timeout_s=0.2) as child:
        with pytest.raises(DecodeError, match=r"more than 0.2 s") as caught:
            child.decode(jpeg(), rules=InTheChild(time.sleep, 60), input_resolutions=[])  # type: ignore[arg-type]
        assert caught.value.code is Code.TIMEOUT
        assert child.decode(jpeg(), rules=RULES, input_resolutions=[]).width == 64


def test_the_start_of_the_child_is_not_on_the_clock_of_its_first_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a busy machine Python, numpy and Pillow take longer to import than a job may allow an image."""
    (tmp_path / "sitecustomize.py").write_text("import time; time.sleep(1.2)")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with IsolatedDecoder(timeout_s=1.0) as child:
        assert child.decode(jpeg(), rules=RULES, input_resolutions=[]).width == 64


def test_what_a_library_prints_does_not_become_an_answer(child: IsolatedDecoder) -> None:
    noisy = InTheChild(
        eval,
        "__import__('os').write(1, b'libnoise: hm') and "
        "__import__('batchtag.decoding.decoder').decoding.decoder.DecodeRules()",
    )
    assert child.decode(jpeg(), rules=noisy, input_resolutions=[]).width == 64  # type: ignore[arg-type]
    assert child.decode(jpeg(), rules=RULES, input_resolutions=[]).width == 64


def test_a_child_that_cannot_start_is_no_fault_of_a_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with IsolatedDecoder(timeout_s=5) as child, pytest.raises(RunFailed, match="does not start"):
        child.decode(jpeg(), rules=RULES, input_resolutions=[])


def test_a_hung_child_does_not_outlive_a_parent_that_was_killed() -> None:
    script = """
import sys
from batchtag.decode import DecodeRules
from batchtag.isolation import IsolatedDecoder
from tests.test_isolation import InTheChild
from tests.images import jpeg

child = IsolatedDecoder(timeout_s=0.5)
child.decode(jpeg(), rules=DecodeRules(), needs=[])
hang = "__import__('os').write(2, b'%d\\\\n' % __import__('os').getpid()) and __import__('time').sleep(60)"
child.decode(jpeg(), rules=InTheChild(eval, hang), needs=[])
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", script], stderr=subprocess.PIPE, cwd=Path(__file__).parents[2], text=True
    )
    assert parent.stderr is not None
    with parent:
        pid = int(parent.stderr.readline())
        parent.kill()
        parent.stderr.read()  # ends when the child, which has it too, closes it by dying
    deadline = time.monotonic() + 10
    while _runs(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _runs(pid)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_no_child_is_left_behind() -> None:
    with IsolatedDecoder(timeout_s=20) as child:
        child.decode(jpeg(), rules=RULES, input_resolutions=[])
        assert child._child is not None
        pid = child._child.pid
    assert not _runs(pid)
