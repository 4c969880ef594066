"""The decoder in a child process: the same results, and what becomes of a child that dies or hangs."""

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
from batchtag.decoding.decoder import decode as decode_here
from batchtag.decoding.subprocess_decoder import SubprocessDecoder
from batchtag.errors import Code, RunFailed
from batchtag.types import DecodedImage, Failure
from tests.support.images import jpeg, oriented_jpeg

RULES = DecodeRules()


class CallInChild:
    """Calls a function when the child unpickles it, in place of an image that kills the decoder or hangs in it."""

    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self._call, self._arguments = call, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self._call, self._arguments


@pytest.fixture
def child() -> Iterator[SubprocessDecoder]:
    with SubprocessDecoder(timeout_s=20) as decoder:
        yield decoder


def decode(child: SubprocessDecoder, data: bytes, rules: Any = RULES) -> DecodedImage:
    """The image; a failure fails the test."""
    image = child.decode(data, rules=rules)
    assert isinstance(image, DecodedImage), image
    return image


def failure_of(child: SubprocessDecoder, data: bytes, rules: Any = RULES) -> Failure:
    """The failure; an image fails the test."""
    failure = child.decode(data, rules=rules)
    assert isinstance(failure, Failure)
    return failure


def test_a_child_decodes_like_this_process(child: SubprocessDecoder) -> None:
    image = decode(child, oriented_jpeg(6))
    assert (image.width, image.height, image.format, image.orientation) == (48, 64, "jpeg", 6)
    assert image.pixels.shape == (64, 48, 3)
    assert tuple(image.pixels[8, 40]) == pytest.approx((255, 0, 0), abs=3)


def test_what_is_not_an_image_is_the_same_failure_as_in_this_process(child: SubprocessDecoder) -> None:
    failure = failure_of(child, b"text, not an image")
    assert failure == decode_here(b"text, not an image", rules=RULES)
    assert failure.code is Code.UNSUPPORTED
    assert decode(child, jpeg()).width == 64


@pytest.mark.parametrize(
    "killer",
    [CallInChild(os._exit, 9), CallInChild(os.abort), CallInChild(signal.raise_signal, signal.SIGKILL)],
    ids=["exit", "abort", "kill"],
)
def test_an_image_that_kills_the_decoder_has_the_code_crashed_and_the_next_one_is_decoded(
    child: SubprocessDecoder, killer: CallInChild
) -> None:
    decode(child, jpeg())
    failure = failure_of(child, jpeg(), rules=killer)
    assert failure.code is Code.CRASHED
    assert "the decoder process died (exit status" in failure.message
    assert decode(child, jpeg()).width == 64


def test_an_image_that_hangs_has_the_code_timeout_and_the_next_one_is_decoded() -> None:
    with SubprocessDecoder(timeout_s=1.0) as child:
        failure = failure_of(child, jpeg(), rules=CallInChild(time.sleep, 60))
        assert (failure.code, failure.message) == (Code.TIMEOUT, "decoding took more than 1 s")
        assert decode(child, jpeg()).width == 64


def test_the_start_of_the_child_does_not_count_towards_the_timeout_of_its_first_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a busy machine the imports of Python, numpy and Pillow may take longer than the timeout for one image."""
    (tmp_path / "sitecustomize.py").write_text("import time; time.sleep(1.2)")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with SubprocessDecoder(timeout_s=1.0) as child:
        assert decode(child, jpeg()).width == 64


def test_output_of_a_library_on_stdout_does_not_become_an_answer(child: SubprocessDecoder) -> None:
    noisy = CallInChild(
        eval,
        "__import__('os').write(1, b'libnoise: hm') and "
        "__import__('batchtag.decoding.decoder').decoding.decoder.DecodeRules()",
    )
    assert decode(child, jpeg(), rules=noisy).width == 64
    assert decode(child, jpeg()).width == 64


def test_a_child_that_cannot_start_ends_the_run_instead_of_failing_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with SubprocessDecoder(timeout_s=5) as child, pytest.raises(RunFailed, match="does not start"):
        child.decode(jpeg(), rules=RULES)


def test_a_hanging_child_does_not_outlive_a_killed_parent() -> None:
    script = """
import sys
from batchtag.decoding.decoder import DecodeRules
from batchtag.decoding.subprocess_decoder import SubprocessDecoder
from tests.decoding.test_subprocess_decoder import CallInChild
from tests.support.images import jpeg

child = SubprocessDecoder(timeout_s=0.5)
child.decode(jpeg(), rules=DecodeRules())
hang = "__import__('os').write(2, b'%d\\\\n' % __import__('os').getpid()) and __import__('time').sleep(60)"
child.decode(jpeg(), rules=CallInChild(eval, hang))
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", script], stderr=subprocess.PIPE, cwd=Path(__file__).parents[2], text=True
    )
    assert parent.stderr is not None
    with parent:
        pid = int(parent.stderr.readline())
        parent.kill()
        parent.stderr.read()  # ends when the child dies, because the child has stderr open too
    deadline = time.monotonic() + 10
    while _is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _is_running(pid)


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_the_context_manager_ends_the_child() -> None:
    with SubprocessDecoder(timeout_s=20) as child:
        decode(child, jpeg())
        assert child._child is not None
        pid = child._child.pid
    assert not _is_running(pid)
