"""Random faults on a real cluster of several nodes, and the proof that they cost only time.

    python -m benchmarks.chaos [--faults 20] [--images 20000] [--kinds raylet worker actor driver notice network]

The cluster has a head and three worker nodes with a logical GPU each. Every node is a raylet of its own in a network
namespace of its own, which needs root. While `batchtag run` tags, a fault is injected every few seconds:

- raylet: SIGKILL of a node's raylet. A node that ended, for any reason, is restarted three seconds later.
- worker: SIGKILL of any worker process of a node.
- actor: SIGKILL of an actor that tags.
- driver: SIGKILL of the driver. The same command is then started again.
- notice: a node is asked to end with SIGTERM, as a spot machine is.
- network: the network of a node is cut for 30 s.

A fault that cannot happen at the moment, because nodes are down or cut, is not counted, and another one is injected.
Each run gets at most four faults. Every run must end, `batchtag verify` must pass, and the tables must have the rows of
an undisturbed run, except for run_id and tagged_at. Prints one line for each run; exits with 1 if one fails. A short
form runs with the tests (`tests/integration/test_chaos.py`).
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

from benchmarks.kills import COMPARED_COLUMNS, read_log_lines, read_rows, start_command, write_images, write_job
from benchmarks.nodes import (
    end_process_tree,
    kill_process,
    list_descendants,
    start_process,
    title_of,
    wait_for_nodes,
)

HEAD_IP, PORT = "10.77.0.1", 26379
CUT_S = 30.0
"""Seconds for which the network of a node is cut."""
RESTART_S = 3.0
"""Seconds from the end of a node to its restart."""
MAX_FAULTS_PER_RUN = 4
MAX_STARTS = 20
"""Starts of the command of one run, after which the benchmark fails."""
RAY = str(Path(sys.executable).with_name("ray"))
ENVIRONMENT = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_worker_niceness": "0"}


def main() -> None:
    """Run jobs until all faults have been injected."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--faults", type=int, default=20)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=list(FAULTS), default=list(FAULTS))
    args = parser.parse_args()
    os.environ["RAY_AUTH_MODE"] = "disabled"
    random_source = random.Random(args.seed)
    is_good, num_injected, run_number = True, 0, 0
    with tempfile.TemporaryDirectory(prefix="bt-", dir="/tmp") as name, run_cluster(Path(name), args.nodes) as nodes:
        folder = Path(name)
        write_images(folder / "images", num_images=args.images)
        undisturbed = folder / "undisturbed"
        if start_command("run", str(write_chaos_job(folder, undisturbed, len(nodes)))).wait():
            raise SystemExit(f"the undisturbed run failed: {read_log_end()}")
        expected = {table: read_rows(undisturbed, table) for table in COMPARED_COLUMNS}
        while num_injected < args.faults:
            run_number += 1
            out = folder / f"out-{run_number}"
            started_at = time.monotonic()
            job = write_chaos_job(folder, out, len(nodes))
            max_faults = min(args.faults - num_injected, MAX_FAULTS_PER_RUN)
            faults, num_starts = run_disturbed(job, nodes, random_source, kinds=args.kinds, max_faults=max_faults)
            num_injected += sum(faults.values())
            verifies = start_command("verify", str(out)).wait() == 0
            is_same = verifies and all(read_rows(out, table) == expected[table] for table in COMPARED_COLUMNS)
            is_good = is_good and is_same
            faults_text = ", ".join(f"{count} {kind}" for kind, count in sorted(faults.items())) or "no fault"
            print(
                f"run {run_number}: {faults_text}; started {num_starts} times; {time.monotonic() - started_at:.0f} s; "
                f"verify {'passes' if verifies else 'FAILS'}; tables {'are the same' if is_same else 'DIFFER'}",
                flush=True,
            )
    sys.exit(0 if is_good else 1)


def write_chaos_job(folder: Path, out: Path, num_nodes: int) -> Path:
    """Write a job that keeps the (logical) GPU of every node busy for some 30 s, in bundles of about a second.

    The job names nodes that may join, because a driver that starts while no node is alive would find no GPU.
    """
    compute = {"address": f"{HEAD_IP}:{PORT}", "device": "cuda", "cpus_per_actor": 2, "bundle_size": 200}
    compute["may_grow_to"] = [{"nodes": num_nodes, "cpus": 2, "gpus": 1}]
    return write_job(folder, out, seconds_per_image=0.005, compute=compute)


def run_disturbed(
    job: Path, nodes: list[Node], random_source: random.Random, *, kinds: Sequence[str], max_faults: int
) -> tuple[Counter[str], int]:
    """Run one job to its end with faults meanwhile; return the faults by kind, and how often the command started."""
    faults: Counter[str] = Counter()
    driver = start_command("run", str(job))
    for num_starts in range(1, MAX_STARTS + 1):
        while driver.poll() is None:
            try:
                driver.wait(timeout=random_source.uniform(4, 12))
            except subprocess.TimeoutExpired:
                if sum(faults.values()) < max_faults:
                    faults.update(inject_fault(driver, nodes, random_source, kinds))
        if driver.returncode == 0:
            return faults, num_starts
        driver = start_command("run", str(job))
    raise SystemExit(f"batchtag run {job} failed after {MAX_STARTS} starts")


def inject_fault(
    driver: subprocess.Popen[bytes], nodes: list[Node], random_source: random.Random, kinds: Sequence[str]
) -> list[str]:
    """Inject one fault of these kinds that is possible now, and return its kind; an empty list if none is."""
    for kind in random_source.sample(kinds, len(kinds)):
        if FAULTS[kind](driver, nodes, random_source):
            return [kind]
    return []


class Node:
    """One worker node in a network namespace of its own, which outlives the node's raylet.

    `process` is the present `ray start` of the node. A thread restarts it whenever it ends, as a cluster manager does.
    """

    def __init__(self, number: int, folder: Path) -> None:
        self._folder = folder
        self._name, self._ip = f"bt{number}", f"10.77.0.{10 + number}"
        self._restore_timers: list[threading.Timer] = []
        self._is_cut = False
        self._noticed: psutil.Popen | None = None
        self._is_over = threading.Event()
        for command in (
            f"ip netns add {self._name}",
            f"ip link add v{self._name} type veth peer name e0 netns {self._name}",
            f"ip link set v{self._name} master btbr up",
            f"ip -n {self._name} addr add {self._ip}/24 dev e0",
            f"ip -n {self._name} link set e0 up",
            f"ip -n {self._name} link set lo up",
        ):
            run_shell(command)
        self.start()

    def start(self) -> None:
        """Start the raylet, its agents, and the thread that restarts them."""
        command = f"ip netns exec {self._name} {RAY} start --block --address={HEAD_IP}:{PORT} --num-cpus=2 --num-gpus=1"
        command += f" --node-ip-address={self._ip} --object-store-memory={96 * 2**20}"

        def keep_running() -> None:
            while not self._is_over.is_set():
                self.process = start_process(command, environment=ENVIRONMENT, log=self._folder / f"{self._name}.log")
                self._wait_for_end()
                self._is_over.wait(RESTART_S)

        self._keeper = threading.Thread(target=keep_running, daemon=True)
        self._keeper.start()

    def _wait_for_end(self) -> None:
        """Wait until the raylet has ended, and end `ray start` too.

        `ray start` does not notice a raylet that ended in order, as one does that the cluster has declared dead.
        """
        was_running = False
        while True:
            try:
                self.process.wait(timeout=1.0)
                self.process.poll()
                return
            except psutil.TimeoutExpired:
                is_running = bool(self.processes("raylet/raylet"))
            if self._is_over.is_set() or (was_running and not is_running):
                end_process_tree(self.process)
                return
            was_running = is_running

    def processes(self, title: str = "") -> list[psutil.Process]:
        """Return the processes of this node whose command line contains `title`."""
        return [process for process in list_descendants(self.process) if title in title_of(process)]

    def kill_raylet(self) -> bool:
        """Kill the raylet and everything that it started; return whether there was one."""
        processes, raylets = self.processes(), self.processes("raylet/raylet")
        for raylet in raylets:
            kill_process(raylet)
        psutil.wait_procs(processes, timeout=10)
        for process in processes:
            kill_process(process)
        return bool(raylets)

    def wait(self, seconds: float) -> None:
        """Wait that long, or until the node is ended for good."""
        self._is_over.wait(seconds)

    def send_notice(self) -> bool:
        """Ask the node to end in order; return False if it has ended, or was asked already."""
        if self._noticed is self.process or not self.processes("raylet/raylet"):
            return False
        self._noticed = self.process
        try:
            self.process.terminate()
        except psutil.NoSuchProcess:
            return False
        return True

    def cut_network(self, seconds: float = CUT_S) -> bool:
        """Cut the network of the node for that long; return False if it is cut already, or the node has ended."""
        if self._is_cut or not self.processes("raylet/raylet"):
            return False
        self._is_cut = True
        run_shell(f"ip link set v{self._name} down")
        self._restore_timers.append(threading.Timer(seconds, self._restore_network))
        self._restore_timers[-1].start()
        return True

    def _restore_network(self) -> None:
        run_shell(f"ip link set v{self._name} up")
        self._is_cut = False

    def end(self) -> None:
        """End the node for good, and remove its network namespace."""
        for timer in self._restore_timers:
            timer.join()
        self._is_over.set()
        self._keeper.join()  # only the thread that started a process may wait for it
        run_shell(f"ip link del v{self._name}")
        run_shell(f"ip netns del {self._name}")


@contextmanager
def run_cluster(folder: Path, num_nodes: int) -> Iterator[list[Node]]:
    """Run a head for the tasks of Ray Data, and nodes that tag."""
    run_shell("ip link add btbr type bridge")
    run_shell(f"ip addr add {HEAD_IP}/24 dev btbr")
    run_shell("ip link set btbr up")
    command = (
        f"{RAY} start --head --block --port={PORT} --node-ip-address={HEAD_IP} --num-cpus=1 --include-dashboard=false"
    )
    command += f" --temp-dir={folder}/ray --object-store-memory={96 * 2**20} --disable-usage-stats"
    head = start_process(command, environment=ENVIRONMENT, log=folder / "head.log")
    nodes: list[Node] = []
    try:
        wait_for_nodes(head, f"{HEAD_IP}:{PORT}", count=1)
        for number in range(num_nodes):
            nodes.append(Node(number, folder))
        wait_for_nodes(head, f"{HEAD_IP}:{PORT}", count=1 + num_nodes)
        yield nodes
    finally:
        for node in nodes:
            node.end()
        end_process_tree(head)
        run_shell("ip link del btbr")


def read_log_end() -> str:
    """Return the last lines of the commands' log in one line."""
    return " | ".join(read_log_lines(8))


def run_shell(command: str) -> None:
    """Run a command without a shell's quoting. Raises CalledProcessError if it fails."""
    subprocess.run(command.split(), check=True)


def _try_nodes(nodes: list[Node], random_source: random.Random, inject: Callable[[Node], bool]) -> bool:
    """Inject a fault into the first node, in random order, that can have it; return whether one could."""
    return any(inject(node) for node in random_source.sample(nodes, len(nodes)))


def _kill_raylet(driver: subprocess.Popen[bytes], nodes: list[Node], random_source: random.Random) -> bool:
    return _try_nodes(nodes, random_source, Node.kill_raylet)


def _kill_one(nodes: list[Node], random_source: random.Random, title: str) -> bool:
    """Kill one process of a node whose title begins so; return whether there was one."""
    victims = [process for node in nodes for process in node.processes() if title_of(process).startswith(title)]
    return any(kill_process(process) for process in random_source.sample(victims, len(victims)))


def _kill_worker(driver: subprocess.Popen[bytes], nodes: list[Node], random_source: random.Random) -> bool:
    return _kill_one(nodes, random_source, "ray::")


def _kill_actor(driver: subprocess.Popen[bytes], nodes: list[Node], random_source: random.Random) -> bool:
    return _kill_one(nodes, random_source, "ray::MapWorker")


def _kill_driver(driver: subprocess.Popen[bytes], nodes: list[Node], random_source: random.Random) -> bool:
    if driver.poll() is not None:
        return False
    driver.kill()
    driver.wait()
    return True


def _send_notice(driver: subprocess.Popen[bytes], nodes: list[Node], random_source: random.Random) -> bool:
    return _try_nodes(nodes, random_source, Node.send_notice)


def _cut_network(driver: subprocess.Popen[bytes], nodes: list[Node], random_source: random.Random) -> bool:
    return _try_nodes(nodes, random_source, Node.cut_network)


FAULTS = {
    "raylet": _kill_raylet,
    "worker": _kill_worker,
    "actor": _kill_actor,
    "driver": _kill_driver,
    "notice": _send_notice,
    "network": _cut_network,
}

if __name__ == "__main__":
    main()
