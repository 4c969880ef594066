"""Decoding in a child process, so that an image that kills the decoder or hangs in it costs only the child.

Used for bundles that have already killed a worker. The child decodes one image after another over its pipes and is
restarted when it dies. A start takes about 0.3 s and each image a copy of its pixels, so the pipeline does not always
decode this way. The timeout is an alarm of the child itself, not a thread of the parent: the kernel ends the child
inside any C code, also when the parent has died, and an alarm that comes late cannot hit the next image.
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
from batchtag.decoding.failures import decode_failure
from batchtag.errors import Code, RunFailed
from batchtag.types import DecodedImage, Failure, InputResolution

_LENGTH = struct.Struct("<Q")
"""The length of a message, which precedes it on the pipe."""
_READY = b"r"
"""What the child writes once, when its imports are done."""


class SubprocessDecoder:
    """`decode` with the same contract, in a child process.

    The child starts with the first image. Use the decoder as a context manager, from one thread at a time.
    """

    def __init__(self, *, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> SubprocessDecoder:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_child()

    def decode(
        self, data: bytes, *, rules: DecodeRules, resolutions: Sequence[InputResolution] = ()
    ) -> DecodedImage | Failure:
        """Decode in the child; see `decoder.decode`.

        Further failures: `crashed` if the child died, `timeout` if it took longer than `timeout_s`. Raises RunFailed
        if the child cannot start, because no image is the reason for that.
        """
        child = self._running_child()
        try:
            _send(child.stdin, (data, rules, list(resolutions)))
            return cast(DecodedImage | Failure, _receive(child.stdout))
        except (OSError, EOFError):
            self._stop_child()
        if child.returncode == -signal.SIGALRM:
            return decode_failure(Code.TIMEOUT, f"decoding took more than {self._timeout_s:g} s")
        return decode_failure(Code.CRASHED, f"the decoder process died (exit status {child.returncode})")

    def _running_child(self) -> subprocess.Popen[bytes]:
        if self._child is None or self._child.poll() is not None:
            self._stop_child()
            self._child = self._start_child()
        return self._child

    def _start_child(self) -> subprocess.Popen[bytes]:
        # The child must import what the parent imports. A Ray worker has its own sys.path, hence PYTHONPATH; `-m` alone
        # would put the working directory before everything else, hence -P.
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        command = [sys.executable, "-P", "-m", "batchtag.decoding.subprocess_decoder", str(self._timeout_s)]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        assert child.stdout is not None
        if child.stdout.read(1) != _READY:
            self._child = child
            self._stop_child()
            raise RunFailed(
                f"the child process that decodes single images does not start (exit status {child.returncode}); "
                f"run it yourself to see why: {' '.join(command)}"
            )
        return child

    def _stop_child(self) -> None:
        """Kill the child, if there is one, and wait for it. A child that has already died keeps its exit status."""
        if self._child is None:
            return
        child, self._child = self._child, None
        for pipe in (child.stdout, child.stdin):
            try:
                if pipe is not None:
                    pipe.close()
            except OSError:
                pass  # closing flushes the buffer, and a dead child reads nothing
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
    return pickle.loads(_read_exactly(pipe, _LENGTH.unpack(_read_exactly(pipe, _LENGTH.size))[0]))


def _read_exactly(pipe: IO[bytes], size: int) -> bytes:
    data = pipe.read(size)
    if len(data) != size:
        raise EOFError
    return data


# The rest runs in the child.


def _serve(requests: IO[bytes], answers: IO[bytes], *, timeout_s: float) -> None:
    """Decode image after image until the parent closes its end of the pipe, or dies."""
    while size := requests.read(_LENGTH.size):
        payload = _read_exactly(requests, _LENGTH.unpack(size)[0])
        # The alarm runs from unpacking the request to the last pixel; sending the answer is not the decoder's time.
        signal.setitimer(signal.ITIMER_REAL, timeout_s)
        data, rules, resolutions = pickle.loads(payload)
        answer = decode(data, rules=rules, resolutions=resolutions)
        signal.setitimer(signal.ITIMER_REAL, 0)
        _send(answers, answer)


def _main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    # An unhandled SIGALRM kills the process; the parent may have blocked the signal, and children inherit that.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
    with os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)  # a C library that prints to stdout must not write between the answers
        answers.write(_READY)
        answers.flush()
        _serve(sys.stdin.buffer, answers, timeout_s=float(sys.argv[1]))


if __name__ == "__main__":
    _main()
