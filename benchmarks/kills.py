"""Kill processes with SIGKILL at random moments, run the same command again, and compare with an undisturbed run.

    python -m benchmarks.kills [--kills 10] [--images 1500] [--seed 0] [--trials drivers actors workers]

There are three trials: the driver, the actor that tags (`ray::MapWorker`), and any worker process of Ray. The driver is
killed and the command repeated, again and again on one OUT; actors and workers are killed while one command runs. After
each trial the command runs once more undisturbed, `batchtag verify` must pass, and the tables must have the rows of the
undisturbed run, except for run_id and tagged_at. Prints one line for each trial and exits with 1 if one fails.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import duckdb
import psutil
import yaml
from PIL import Image

from benchmarks.nodes import kill_process, list_descendants, title_of

LOG = tempfile.TemporaryFile()  # noqa: SIM115 - open for as long as this process lives
"""stdout and stderr of all commands."""
COMPARED_COLUMNS = {
    "images": "* exclude (run_id, tagged_at)",
    "tags": "* exclude (run_id)",
    "errors": "* exclude (run_id)",
}
"""By table: the columns that do not differ from run to run."""


def main() -> None:
    """Run the trials."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--images", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trials", nargs="+", choices=list(TRIALS), default=list(TRIALS))
    args = parser.parse_args()
    random_source = random.Random(args.seed)
    with tempfile.TemporaryDirectory(prefix="kills-") as name:
        folder = Path(name)
        write_images(folder / "images", num_images=args.images)
        undisturbed = folder / "undisturbed"
        run_to_end(write_kill_job(folder, undisturbed))
        is_good = True
        for trial_name in args.trials:
            trial = TRIALS[trial_name]
            out = folder / trial.__name__
            started_at = time.monotonic()
            num_kills = trial(write_kill_job(folder, out), num_kills=args.kills, random_source=random_source)
            run_to_end(write_kill_job(folder, out))
            verifies = start_command("verify", str(out)).wait() == 0
            is_same = all(read_rows(undisturbed, table) == read_rows(out, table) for table in COMPARED_COLUMNS)
            is_good = is_good and verifies and is_same
            print(
                f"{trial_name}: {num_kills} killed in {time.monotonic() - started_at:.0f} s; verify "
                f"{'passes' if verifies else 'FAILS'}; tables {'are the same' if is_same else 'DIFFER'}",
                flush=True,
            )
    sys.exit(0 if is_good else 1)


def write_images(folder: Path, *, num_images: int) -> None:
    """Write small JPEGs; every tenth is truncated."""
    folder.mkdir()
    for number in range(num_images):
        path = folder / f"{number:06d}.jpg"
        Image.new("RGB", (64, 48), (number % 256, number // 256, 128)).save(path)
        if number % 10 == 9:
            path.write_bytes(path.read_bytes()[:300])


def write_kill_job(folder: Path, out: Path) -> Path:
    """Write a job that keeps its one worker busy for some 30 s, in bundles of about a second."""
    return write_job(folder, out, seconds_per_image=0.02, compute={"bundle_size": 50})


def write_job(folder: Path, out: Path, *, seconds_per_image: float, compute: dict[str, object]) -> Path:
    """Write a job for the images in `folder` as a file beside them, and return its path."""
    path = folder / f"{out.name}.yaml"
    content = {
        "version": 1,
        "source": {"kind": "prefix", "uris": [str(folder / "images")]},
        "models": [{"kind": "constant", "seconds_per_image": seconds_per_image}],
        "output": {"uri": str(out)},
        "compute": compute,
        "max_failure_rate": 1.0,
    }
    path.write_text(yaml.safe_dump(content))
    return path


def start_command(*words: str) -> subprocess.Popen[bytes]:
    """Start a batchtag command. Its stdout and stderr go to LOG, which is shown when something fails."""
    command = [sys.executable, "-c", "from batchtag.cli import main; main()", *words]
    return subprocess.Popen(command, stdout=LOG, stderr=LOG)


def read_log_lines(count: int) -> list[str]:
    """Return the last lines of LOG."""
    LOG.seek(0)
    return LOG.read().decode(errors="replace").splitlines()[-count:]


def run_to_end(job: Path) -> None:
    """Run a job undisturbed. Raises SystemExit with the end of LOG if it fails."""
    status = start_command("run", str(job)).wait()
    if status:
        raise SystemExit("\n".join([*read_log_lines(30), f"batchtag run {job} ended with {status}"]))


def kill_drivers(job: Path, *, num_kills: int, random_source: random.Random) -> int:
    """Start the command and kill it between its first second and the middle of tagging, again and again."""
    for _ in range(num_kills):
        driver = start_command("run", str(job))
        try:
            driver.wait(timeout=random_source.uniform(1, 28))
        except subprocess.TimeoutExpired:
            driver.kill()
            driver.wait()
    return num_kills


def kill_actors(job: Path, *, num_kills: int, random_source: random.Random) -> int:
    """Kill the process of the actor that tags."""
    return _kill_while_running(job, num_kills=num_kills, random_source=random_source, title="ray::MapWorker")


def kill_workers(job: Path, *, num_kills: int, random_source: random.Random) -> int:
    """Kill any of Ray's Python processes: actors, idle workers, the run's supervisor, the agents of a node."""
    return _kill_while_running(job, num_kills=num_kills, random_source=random_source, title="ray::")


def _kill_while_running(job: Path, *, num_kills: int, random_source: random.Random, title: str) -> int:
    """Kill processes of a run whose title begins so. If that ends the run, start the same command again."""
    count = 0
    while count < num_kills:
        driver = start_command("run", str(job))
        while count < num_kills and driver.poll() is None:
            time.sleep(random_source.uniform(0.5, 6))
            victims = _find_processes(driver.pid, title=title)
            count += bool(victims) and kill_process(random_source.choice(victims))
        if driver.wait() == 0:
            break
    return count


def _find_processes(driver_pid: int, *, title: str) -> list[psutil.Process]:
    try:
        driver = psutil.Process(driver_pid)
    except psutil.NoSuchProcess:
        return []
    return [process for process in list_descendants(driver) if title_of(process).startswith(title)]


def read_rows(out: Path, table: str) -> list[dict[str, object]]:
    """Return every row of a table, sorted, without the columns that differ from run to run."""
    with duckdb.connect() as database:
        files = f"'{out}/{table}/*.parquet'"
        relation = database.sql(f"select {COMPARED_COLUMNS[table]} from read_parquet({files}) order by all")
        rows: list[dict[str, object]] = relation.to_arrow_table().to_pylist()
        return rows


TRIALS = {"drivers": kill_drivers, "actors": kill_actors, "workers": kill_workers}

if __name__ == "__main__":
    main()
