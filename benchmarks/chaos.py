"""Random faults on a real cluster of several nodes, and the proof that they cost nothing but time.

    python -m benchmarks.chaos [--faults 20] [--images 20000] [--kinds raylet worker actor driver notice network]

A head and three worker nodes with a logical GPU each, every node a raylet of its own in a network namespace of its own
(which needs root). While `batchtag run` tags, a fault comes every few seconds: kill -9 of a node's raylet (a node that
ended, for this or another reason, comes again three seconds later), of any of a node's worker processes, of an actor
that tags, of the driver (the same command is given again), a node that is told to end (SIGTERM, as a spot machine's
notice is handed on), or a node whose network is cut for 30 s. What cannot happen at the moment, because nodes are down
or cut, counts for nothing, and something else happens. Each run gets four faults at most. Every run must end, `batchtag
verify` must pass, and the tables must hold the rows of an undisturbed run but for run_id and tagged_at. Prints a line a
run; exits 1 if one fails. A short form runs with the tests (`tests/line/test_chaos.py`).
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from benchmarks.kills import ROWS, STORY, command, draw, rows, write_job
from benchmarks.nodes import children, end, kill, started, wait_for_nodes

HEAD_IP, PORT, CUT_S, AGAIN_S, A_RUN = "10.77.0.1", 26379, 30.0, 3.0, 4
RAY = str(Path(sys.executable).with_name("ray"))
ENVIRONMENT = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_worker_niceness": "0"}


def main() -> None:
    """Runs until all faults have happened."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--faults", type=int, default=20)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=list(FAULTS), default=list(FAULTS))
    asked = parser.parse_args()
    os.environ["RAY_AUTH_MODE"] = "disabled"
    dice = random.Random(asked.seed)
    good, done = True, 0
    with tempfile.TemporaryDirectory(prefix="bt-", dir="/tmp") as name, cluster(Path(name), asked.nodes) as nodes:
        folder = Path(name)
        draw(folder / "images", num_images=asked.images)
        if command("run", str(job(folder, folder / "reference", len(nodes)))).wait():
            raise SystemExit(f"the undisturbed run did not end well: {story()}")
        expected = {table: rows(folder / "reference", table) for table in ROWS}
        number = 0
        while done < asked.faults:
            number += 1
            out = folder / f"out-{number}"
            began = time.monotonic()
            faults, tries = disturbed(job(folder, out, len(nodes)), nodes, dice, asked, left=asked.faults - done)
            done += sum(faults.values())
            verified = command("verify", str(out)).wait() == 0
            same = verified and all(rows(out, table) == expected[table] for table in ROWS)
            good = good and same
            told = ", ".join(f"{count} {kind}" for kind, count in sorted(faults.items())) or "no fault"
            proof = "passes" if verified else "FAILS"
            print(
                f"run {number}: {told}; begun {tries} times; {time.monotonic() - began:.0f} s; verify {proof}; "
                f"tables {'the same' if same else 'DIFFER'}",
                flush=True,
            )
    sys.exit(0 if good else 1)


def job(folder: Path, out: Path, num_nodes: int) -> Path:
    """A job that keeps the (logical) GPU of every node busy for some 30 s, in bundles of about a second.

    Nodes that are not there yet are promised, or a driver that begins while none is there would find no GPU.
    """
    compute = {"address": f"{HEAD_IP}:{PORT}", "device": "cuda", "cpus_per_actor": 2, "bundle_size": 200}
    compute["may_grow_to"] = [{"nodes": num_nodes, "cpus": 2, "gpus": 1}]
    return write_job(folder, out, seconds_per_image=0.005, compute=compute)


def disturbed(
    path: Path, nodes: list[Node], dice: random.Random, asked: argparse.Namespace, *, left: int
) -> tuple[Counter[str], int]:
    """One job to its end, whatever happens to it meanwhile: the faults, and how often the command was given."""
    faults: Counter[str] = Counter()
    driver = command("run", str(path))
    for tries in range(1, 21):
        while driver.poll() is None:
            try:
                driver.wait(timeout=dice.uniform(4, 12))
            except subprocess.TimeoutExpired:
                if sum(faults.values()) < min(left, A_RUN):
                    faults.update(strike(driver, nodes, dice, asked.kinds))
        if driver.returncode == 0:
            return faults, tries
        driver = command("run", str(path))
    raise SystemExit(f"batchtag run {path} did not end well in 20 tries")


def strike(driver: subprocess.Popen[bytes], nodes: list[Node], dice: random.Random, kinds: Sequence[str]) -> list[str]:
    """One fault of these kinds, whichever can happen now, by its kind; none if none can."""
    for kind in dice.sample(kinds, len(kinds)):
        if FAULTS[kind](driver, nodes, dice):
            return [kind]
    return []


class Node:
    """One worker node in a network namespace of its own, which outlives the node's raylet."""

    def __init__(self, number: int, folder: Path) -> None:
        self._folder = folder
        self._name, self._ip = f"bt{number}", f"10.77.0.{10 + number}"
        self._mending: list[threading.Timer] = []
        self._is_cut = False
        self._noticed: psutil.Popen | None = None
        self._over = threading.Event()
        for words in (
            f"ip netns add {self._name}",
            f"ip link add v{self._name} type veth peer name e0 netns {self._name}",
            f"ip link set v{self._name} master btbr up",
            f"ip -n {self._name} addr add {self._ip}/24 dev e0",
            f"ip -n {self._name} link set e0 up",
            f"ip -n {self._name} link set lo up",
        ):
            sh(words)
        self.start()

    def start(self) -> None:
        """A raylet, its agents, and what they will start; begun again whenever it ends, as a cluster's manager does."""
        words = f"ip netns exec {self._name} {RAY} start --block --address={HEAD_IP}:{PORT} --num-cpus=2 --num-gpus=1"
        words += f" --node-ip-address={self._ip} --object-store-memory={96 * 2**20}"

        def keep() -> None:
            while not self._over.is_set():
                self.process = started(words, environment=ENVIRONMENT, log=self._folder / f"{self._name}.log")
                self._until_it_ends()
                self._over.wait(AGAIN_S)

        self._keeper = threading.Thread(target=keep, daemon=True)
        self._keeper.start()

    def _until_it_ends(self) -> None:
        """Of a raylet that ended in order, as one does that the cluster has given up, `ray start` takes no notice."""
        began = False
        while True:
            try:
                self.process.wait(timeout=1.0)
                self.process.poll()
                return
            except psutil.TimeoutExpired:
                lives = bool(self.family("raylet/raylet"))
            if self._over.is_set() or (began and not lives):
                end(self.process)
                return
            began = lives

    def family(self, title: str = "") -> list[psutil.Process]:
        """Its processes whose command line has that in it."""
        return [one for one in children(self.process) if title in _title(one)]

    def kill(self) -> bool:
        """The raylet dies, and what it had started with it; false if there was none."""
        family, raylets = self.family(), self.family("raylet/raylet")
        for one in raylets:
            kill(one)
        psutil.wait_procs(family, timeout=10)
        for one in family:
            kill(one)
        return bool(raylets)

    def wait(self, seconds: float) -> None:
        """For a while, or until the node is over."""
        self._over.wait(seconds)

    def notice(self) -> bool:
        """The node is told to end, and does so in order; false if it has ended, or was told already."""
        if self._noticed is self.process or not self.family("raylet/raylet"):
            return False
        self._noticed = self.process
        try:
            self.process.terminate()
        except psutil.NoSuchProcess:
            return False
        return True

    def cut(self, seconds: float = CUT_S) -> bool:
        """Nothing comes or goes for a while; false if that is so already, or the node has ended."""
        if self._is_cut or not self.family("raylet/raylet"):
            return False
        self._is_cut = True
        sh(f"ip link set v{self._name} down")
        self._mending.append(threading.Timer(seconds, self._mend))
        self._mending[-1].start()
        return True

    def _mend(self) -> None:
        sh(f"ip link set v{self._name} up")
        self._is_cut = False

    def end(self) -> None:
        for timer in self._mending:
            timer.join()
        self._over.set()
        self._keeper.join()  # who started a process waits for it, and nobody else
        sh(f"ip link del v{self._name}")
        sh(f"ip netns del {self._name}")


@contextmanager
def cluster(folder: Path, count: int) -> Iterator[list[Node]]:
    """A head that runs Ray Data's own tasks, and nodes that tag."""
    sh("ip link add btbr type bridge")
    sh(f"ip addr add {HEAD_IP}/24 dev btbr")
    sh("ip link set btbr up")
    words = (
        f"{RAY} start --head --block --port={PORT} --node-ip-address={HEAD_IP} --num-cpus=1 --include-dashboard=false"
    )
    words += f" --temp-dir={folder}/ray --object-store-memory={96 * 2**20} --disable-usage-stats"
    head = started(words, environment=ENVIRONMENT, log=folder / "head.log")
    nodes: list[Node] = []
    try:
        wait_for_nodes(head, f"{HEAD_IP}:{PORT}", count=1)
        for number in range(count):
            nodes.append(Node(number, folder))
        wait_for_nodes(head, f"{HEAD_IP}:{PORT}", count=1 + count)
        yield nodes
    finally:
        for node in nodes:
            node.end()
        end(head)
        sh("ip link del btbr")


def story() -> str:
    """The end of what the commands said."""
    STORY.seek(0)
    return " | ".join(STORY.read().decode(errors="replace").splitlines()[-8:])


def sh(words: str) -> None:
    subprocess.run(words.split(), check=True)


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _one_of(nodes: list[Node], dice: random.Random, happens: Callable[[Node], bool]) -> bool:
    """Whether there was a node that it could happen to."""
    return any(happens(node) for node in dice.sample(nodes, len(nodes)))


def _kill_raylet(driver: subprocess.Popen[bytes], nodes: list[Node], dice: random.Random) -> bool:
    return _one_of(nodes, dice, Node.kill)


def _kill_process(nodes: list[Node], dice: random.Random, title: str) -> bool:
    victims = [one for node in nodes for one in node.family() if _title(one).startswith(title)]
    return any(kill(one) for one in dice.sample(victims, len(victims)))


def _kill_worker(driver: subprocess.Popen[bytes], nodes: list[Node], dice: random.Random) -> bool:
    return _kill_process(nodes, dice, "ray::")


def _kill_actor(driver: subprocess.Popen[bytes], nodes: list[Node], dice: random.Random) -> bool:
    return _kill_process(nodes, dice, "ray::MapWorker")


def _kill_driver(driver: subprocess.Popen[bytes], nodes: list[Node], dice: random.Random) -> bool:
    if driver.poll() is not None:
        return False
    driver.kill()
    driver.wait()
    return True


def _notice(driver: subprocess.Popen[bytes], nodes: list[Node], dice: random.Random) -> bool:
    return _one_of(nodes, dice, Node.notice)


def _cut_network(driver: subprocess.Popen[bytes], nodes: list[Node], dice: random.Random) -> bool:
    return _one_of(nodes, dice, Node.cut)


FAULTS = {
    "raylet": _kill_raylet,
    "worker": _kill_worker,
    "actor": _kill_actor,
    "driver": _kill_driver,
    "notice": _notice,
    "network": _cut_network,
}

if __name__ == "__main__":
    main()
