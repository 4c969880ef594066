"""What runs on the cluster's head: `batchtag run` as a child, begun again when it died, if the job allows it.

    python -m batchtag.cluster.entrypoint --run-id ID [--retries N] [--expect VERSION] job.yaml

A process of its own that does next to nothing, so that it lives when the driver is killed, can say why, and can begin
again: a new run, which resumes; each has the time in its id, so that no two are taken for one another. What a person
or the job decided (wrong usage, too many failures, cancelled) is not tried again. Ray's Jobs API runs an entrypoint
only once.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from batchtag import __version__

_FINAL = (0, 2, 3, 130)
_PAUSE_S = 5.0
_EVENTS = Path("/sys/fs/cgroup/memory.events")


def main() -> None:
    """Run it, and end as it ended."""
    parser = argparse.ArgumentParser(prog="python -m batchtag.cluster.entrypoint")
    parser.add_argument("--run-id", required=True)
    parser.add_argument("--retries", type=int, default=0)
    parser.add_argument("--expect", default=__version__)
    parser.add_argument("job")
    asked = parser.parse_args()
    if asked.expect != __version__:
        _say(f"this image has batchtag {__version__} and the job was submitted with {asked.expect}; install the same")
        sys.exit(2)
    sys.exit(_Driver(asked.job, asked.run_id).run(retries=asked.retries))


def _say(text: str) -> None:
    print(f"batchtag: {text}", file=sys.stderr, flush=True)


class _Driver:
    """The child, and the wish to end it."""

    def __init__(self, job: str, run_id: str) -> None:
        self._job, self._run_id = job, run_id
        self._child: subprocess.Popen[bytes] | None = None
        self._stopped = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)

    def _stop(self, number: int, _: object) -> None:
        self._stopped = True
        if self._child is not None and self._child.poll() is None:
            self._child.send_signal(number)

    def run(self, *, retries: int) -> int:
        for left in range(retries, -1, -1):
            code = self._once(f"{self._run_id}.{datetime.now(UTC):%Y%m%d%H%M%S}")
            if code in _FINAL or self._stopped or not left:
                break
            _say(f"beginning again, {left} of {retries} retries left; what is committed stays")
            time.sleep(_PAUSE_S)
            if self._stopped:
                break
        return code if code >= 0 else 128 - code

    def _once(self, run_id: str) -> int:
        kills = _memory_kills()
        words = [sys.executable, "-m", "batchtag", "run", self._job, "--run-id", run_id]
        self._child = subprocess.Popen(words)
        if self._stopped:
            self._child.terminate()
        code = self._child.wait()
        if code < 0 and not (self._stopped and -code in (signal.SIGTERM, signal.SIGINT)):
            _say(f"the driver of {run_id} was killed by {signal.Signals(-code).name}{_why(-code, kills)}")
        return code


def _why(number: int, kills: int | None) -> str:
    if number != signal.SIGKILL:
        return ""
    now = _memory_kills()
    if now is None or kills is None:
        return ", perhaps by the kernel for want of memory: its counter cannot be read here"
    if now > kills:
        return ": the head ran out of memory; give it more"
    return ", and not for want of memory"


def _memory_kills() -> int | None:
    """How often the kernel killed a process of this container because its memory was used up (cgroup v2)."""
    try:
        facts = dict(line.split() for line in _EVENTS.read_text().splitlines())
    except (OSError, ValueError):
        return None
    return int(facts.get("oom_kill", 0))


if __name__ == "__main__":
    main()
