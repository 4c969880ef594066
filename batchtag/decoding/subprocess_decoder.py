"""Decoding in a child process, so that an image that kills the decoder, or never lets it go, costs the child only.

Used for bundles that already killed a worker. The child serves one image after another over its pipes and is started
again when it dies; about 0.3 s a start and a copy of the pixels, which is why the line does not decode this way always.
The clock is the child's own alarm, not a thread here: the kernel ends it in the midst of any C code, whoever else has
died meanwhile, and an alarm that comes late can never hit the next image.
"""

from __future__ import annotations

import os
import pickle
import signal
import struct
import subprocess
import sys
from collections.abc import Sequence
from typing import IO, Any, cast

from batchtag.decoding.decoder import DecodeRules, decode
from batchtag.errors import Code, DecodeError, RunFailed
from batchtag.types import DecodedImage, InputResolution

_LENGTH = struct.Struct("<Q")
_READY = b"r"


class IsolatedDecoder:
    """`decode` with the same promises, in a child. Not for several threads at once. Use it as a context manager."""

    def __init__(self, *, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> IsolatedDecoder:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def decode(self, data: bytes, *, rules: DecodeRules, input_resolutions: Sequence[InputResolution]) -> DecodedImage:
        """Raises DecodeError, also with `crashed` when the child died and `timeout` when its time was up.

        A child that cannot even start is no fault of the image: RunFailed.
        """
        child = self._running()
        try:
            _send(child.stdin, (data, rules, list(input_resolutions)))
            answer = _receive(child.stdout)
        except (OSError, EOFError):
            self._end()
            if child.returncode == -signal.SIGALRM:
                raise DecodeError(f"decoding took more than {self._timeout_s:g} s", code=Code.TIMEOUT) from None
            raise DecodeError(f"the decoder died of it (exit status {child.returncode})", code=Code.CRASHED) from None
        if isinstance(answer, DecodeError):
            raise answer
        return cast(DecodedImage, answer)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._child is None or self._child.poll() is not None:
            self._end()
            self._child = self._start()
        return self._child

    def _start(self) -> subprocess.Popen[bytes]:
        # It must find what we found: a Ray worker has a path of its own, and `-m` alone would put the folder we
        # happen to stand in before everything else.
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        command = [sys.executable, "-P", "-m", "batchtag.decoding.subprocess_decoder", str(self._timeout_s)]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        assert child.stdout is not None
        if child.stdout.read(1) != _READY:
            self._child = child
            self._end()
            raise RunFailed(
                f"the child process that decodes images apart does not start (exit status {child.returncode}); "
                f"try it: {' '.join(command)}"
            )
        return child

    def _end(self) -> None:
        """Kill the child, if there is one, and wait for it. One that has died already keeps its own exit status."""
        if self._child is None:
            return
        child, self._child = self._child, None
        for pipe in (child.stdout, child.stdin):
            try:
                if pipe is not None:
                    pipe.close()
            except OSError:
                pass  # what was still buffered for a dead child
        child.kill()
        child.wait()


def _send(pipe: IO[bytes] | None, message: Any) -> None:
    assert pipe is not None
    payload = pickle.dumps(message, protocol=5)
    pipe.write(_LENGTH.pack(len(payload)))
    pipe.write(payload)
    pipe.flush()


def _receive(pipe: IO[bytes] | None) -> Any:
    assert pipe is not None
    return pickle.loads(_exactly(pipe, _LENGTH.unpack(_exactly(pipe, _LENGTH.size))[0]))


def _exactly(pipe: IO[bytes], size: int) -> bytes:
    data = pipe.read(size)
    if len(data) != size:
        raise EOFError
    return data


def _serve(requests: IO[bytes], answers: IO[bytes], *, timeout_s: float) -> None:
    """Answer until the parent closes its end, or has died."""
    while size := requests.read(_LENGTH.size):
        payload = _exactly(requests, _LENGTH.unpack(size)[0])
        signal.setitimer(signal.ITIMER_REAL, timeout_s)
        data, rules, input_resolutions = pickle.loads(payload)
        try:
            answer: object = decode(data, rules=rules, input_resolutions=input_resolutions)
        except DecodeError as error:
            answer = error
        signal.setitimer(signal.ITIMER_REAL, 0)
        _send(answers, answer)


def _main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
    with os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)  # what a C library prints must not get between the answers
        answers.write(_READY)
        answers.flush()
        _serve(sys.stdin.buffer, answers, timeout_s=float(sys.argv[1]))


if __name__ == "__main__":
    _main()
