"""Kill -9 at random moments, run the same command again, and compare with a run that nobody disturbed.

    python -m benchmarks.kills [--kills 10] [--images 1500] [--seed 0] [--trials drivers actors workers]

Three trials: the driver, the actor that tags (`ray::MapWorker`), and any Ray worker process. The driver is killed and
the command repeated, over and over on one OUT; actors and workers are killed while one command goes on. After each
trial the command runs once more undisturbed, `batchtag verify` must pass, and the tables must hold the same rows as the
reference, but for run_id and tagged_at. Prints one line a trial and exits 1 if one fails.
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

STORY = tempfile.TemporaryFile()  # noqa: SIM115 - open for as long as this process lives
ROWS = {
    "images": "* exclude (run_id, tagged_at)",
    "tags": "* exclude (run_id)",
    "errors": "* exclude (run_id)",
}


def main() -> None:
    """Run the three trials."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--kills", type=int, default=10)
    arguments.add_argument("--images", type=int, default=1500)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--trials", nargs="+", choices=list(TRIALS), default=list(TRIALS))
    asked = arguments.parse_args()
    dice = random.Random(asked.seed)
    with tempfile.TemporaryDirectory(prefix="kills-") as place:
        folder = Path(place)
        draw(folder / "images", num_images=asked.images)
        reference = folder / "reference"
        run_to_the_end(job(folder, reference))
        good = True
        for name in asked.trials:
            trial = TRIALS[name]
            out = folder / trial.__name__
            began = time.monotonic()
            kills = trial(job(folder, out), num_kills=asked.kills, dice=dice)
            run_to_the_end(job(folder, out))
            verified = command("verify", str(out)).wait() == 0
            same = all(rows(reference, table) == rows(out, table) for table in ROWS)
            good = good and verified and same
            print(
                f"{name}: {kills} killed in {time.monotonic() - began:.0f} s; verify "
                f"{'passes' if verified else 'FAILS'}; tables {'the same' if same else 'DIFFER'}",
                flush=True,
            )
    sys.exit(0 if good else 1)


def draw(folder: Path, *, num_images: int) -> None:
    """Small images, every tenth of them cut off."""
    folder.mkdir()
    for number in range(num_images):
        path = folder / f"{number:06d}.jpg"
        Image.new("RGB", (64, 48), (number % 256, number // 256, 128)).save(path)
        if number % 10 == 9:
            path.write_bytes(path.read_bytes()[:300])


def job(folder: Path, out: Path) -> Path:
    """A job that keeps its one worker busy for some 30 s, in bundles of about a second."""
    return write_job(folder, out, seconds_per_image=0.02, compute={"bundle_size": 50})


def write_job(folder: Path, out: Path, *, seconds_per_image: float, compute: dict[str, object]) -> Path:
    """A job for the images in the folder, as a file beside them."""
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


def command(*words: str) -> subprocess.Popen[bytes]:
    """A batchtag command, started; what it says goes to the end of the story, which is told when something fails."""
    return subprocess.Popen(
        [sys.executable, "-c", "from batchtag.cli import main; main()", *words], stdout=STORY, stderr=STORY
    )


def run_to_the_end(path: Path) -> None:
    """Undisturbed; raises when it does not end well."""
    status = command("run", str(path)).wait()
    if status:
        STORY.seek(0)
        tail = STORY.read().decode(errors="replace").splitlines()[-30:]
        raise SystemExit("\n".join([*tail, f"batchtag run {path} ended with {status}"]))


def kill_drivers(path: Path, *, num_kills: int, dice: random.Random) -> int:
    """Start the command and kill it between its first second and some way into tagging, again and again."""
    for _ in range(num_kills):
        driver = command("run", str(path))
        try:
            driver.wait(timeout=dice.uniform(1, 28))
        except subprocess.TimeoutExpired:
            driver.kill()
            driver.wait()
    return num_kills


def kill_actors(path: Path, *, num_kills: int, dice: random.Random) -> int:
    """Kill the process of the actor that tags."""
    return _kill_while_running(path, num_kills=num_kills, dice=dice, title="ray::MapWorker")


def kill_workers(path: Path, *, num_kills: int, dice: random.Random) -> int:
    """Kill any of Ray's Python processes: actors, idle workers, the run's monitor, a node's agents."""
    return _kill_while_running(path, num_kills=num_kills, dice=dice, title="ray::")


def _kill_while_running(path: Path, *, num_kills: int, dice: random.Random, title: str) -> int:
    """Kill such processes of a run; where that ends the run, the same command is given again."""
    kills = 0
    while kills < num_kills:
        driver = command("run", str(path))
        while kills < num_kills and driver.poll() is None:
            time.sleep(dice.uniform(0.5, 6))
            victims = _processes(driver.pid, title=title)
            if victims:
                victim = dice.choice(victims)
                try:
                    victim.kill()
                except psutil.NoSuchProcess:
                    continue
                kills += 1
        if driver.wait() == 0:
            break
    return kills


def _processes(driver: int, *, title: str) -> list[psutil.Process]:
    found = []
    try:
        for process in psutil.Process(driver).children(recursive=True):
            try:
                if " ".join(process.cmdline()).startswith(title):
                    found.append(process)
            except psutil.Error:
                continue
    except psutil.NoSuchProcess:
        return []
    return found


def rows(out: Path, table: str) -> list[dict[str, object]]:
    """Every row of a table, sorted, without what differs from run to run."""
    with duckdb.connect() as database:
        relation = database.sql(f"select {ROWS[table]} from read_parquet('{out}/{table}/*.parquet') order by all")
        found: list[dict[str, object]] = relation.to_arrow_table().to_pylist()
        return found


TRIALS = {"drivers": kill_drivers, "actors": kill_actors, "workers": kill_workers}

if __name__ == "__main__":
    main()
