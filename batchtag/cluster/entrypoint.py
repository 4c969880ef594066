"""The program that runs on the cluster's head: it starts `batchtag run` and restarts it if it died and the job allows.

    python -m batchtag.cluster.entrypoint --run-id ID [--retries N] [--expect VERSION] job.yaml

Ray's Jobs API runs an entry point only once, so the restart is here. This process does almost nothing itself: it
survives when the driver is killed, reports the reason, and restarts it. The restarted driver is a new run that
resumes; the time in the id of each keeps them apart. Ends that the user or the job decided (wrong usage, too many
failures, cancelled) are not retried.
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

_FINAL_CODES = (0, 2, 3, 130)
"""Exit codes that are not retried: done, wrong usage or job file, too many failures, interrupted."""
_PAUSE_S = 5.0
"""Seconds between the death of a driver and its restart."""
_MEMORY_EVENTS_FILE = Path("/sys/fs/cgroup/memory.events")


def main() -> None:
    """Run the job, and exit with the code of its driver."""
    parser = argparse.ArgumentParser(prog="python -m batchtag.cluster.entrypoint")
    parser.add_argument("--run-id", required=True)
    parser.add_argument("--retries", type=int, default=0)
    parser.add_argument("--expect", default=__version__)
    parser.add_argument("job")
    arguments = parser.parse_args()
    if arguments.expect != __version__:
        _print_message(
            f"the image of the cluster has batchtag {__version__} and the job was submitted with {arguments.expect}; "
            "install the same version in both"
        )
        sys.exit(2)
    sys.exit(_DriverProcess(arguments.job, arguments.run_id).run(num_retries=arguments.retries))


def _print_message(text: str) -> None:
    print(f"batchtag: {text}", file=sys.stderr, flush=True)


class _DriverProcess:
    """The driver as a child process, restarted where allowed; SIGTERM and SIGINT are passed on to it."""

    def __init__(self, job: str, run_id: str) -> None:
        self._job, self._run_id = job, run_id
        self._child: subprocess.Popen[bytes] | None = None
        self._is_stopped = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)

    def _stop(self, number: int, _: object) -> None:
        self._is_stopped = True
        if self._child is not None and self._child.poll() is None:
            self._child.send_signal(number)

    def run(self, *, num_retries: int) -> int:
        """Run the driver, with up to `num_retries` restarts. Returns the exit code of the last one."""
        for num_remaining in range(num_retries, -1, -1):
            code = self._run_once(f"{self._run_id}.{datetime.now(UTC):%Y%m%d%H%M%S}")
            if code in _FINAL_CODES or self._is_stopped or not num_remaining:
                break
            _print_message(f"restarting, {num_remaining} of {num_retries} retries remaining; what is committed stays")
            time.sleep(_PAUSE_S)
            if self._is_stopped:
                break
        return code if code >= 0 else 128 - code

    def _run_once(self, run_id: str) -> int:
        num_memory_kills = _count_memory_kills()
        command = [sys.executable, "-m", "batchtag", "run", self._job, "--run-id", run_id]
        self._child = subprocess.Popen(command)
        if self._is_stopped:  # a signal arrived while the child was starting
            self._child.terminate()
        code = self._child.wait()
        if code < 0 and not (self._is_stopped and -code in (signal.SIGTERM, signal.SIGINT)):
            reason = _explain_kill(-code, num_memory_kills)
            _print_message(f"the driver of {run_id} was killed by {signal.Signals(-code).name}{reason}")
        return code


def _explain_kill(number: int, num_memory_kills_before: int | None) -> str:
    """Return what is known about the cause of a SIGKILL, as the end of a sentence; "" for other signals."""
    if number != signal.SIGKILL:
        return ""
    num_memory_kills = _count_memory_kills()
    if num_memory_kills is None or num_memory_kills_before is None:
        return ", perhaps by the kernel because memory ran out: its counter cannot be read here"
    if num_memory_kills > num_memory_kills_before:
        return ": the head ran out of memory; give it more"
    return ", and not because memory ran out"


def _count_memory_kills() -> int | None:
    """Return how often the kernel killed a process of this container because memory ran out (cgroup v2)."""
    try:
        events = dict(line.split() for line in _MEMORY_EVENTS_FILE.read_text().splitlines())
    except (OSError, ValueError):
        return None
    return int(events.get("oom_kill", 0))


if __name__ == "__main__":
    main()
