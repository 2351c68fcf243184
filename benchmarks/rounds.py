"""Measures peers in turns: each has a process of its own, and while one runs the others sleep."""

import dataclasses
import json
import os
import pathlib
import select
import statistics
import subprocess
import sys
import tempfile
import time

import numpy

from peers import Peer

WORKER = pathlib.Path(__file__).resolve().parent / "worker.py"
# Compilers among the peers take minutes for long sequences.
PREPARE_SECONDS = 600
# After a turn: libraries keep their threads awake for some milliseconds when work is done.
PAUSE_SECONDS = 0.3

# What favours peers. glibc gives large blocks back to the kernel at once by default, which makes PyTorch, which asks for
# new ones in every operation, up to three times slower.
FAVOURS = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
    "MALLOC_TOP_PAD_": "67108864",
    "MALLOC_ARENA_MAX": "2",
    "JAX_PLATFORMS": "cpu",
}


class PeerFailed(Exception):
    """A peer that is there ended with an error."""


def environment(threads: int) -> dict[str, str]:
    """That of every measured process."""
    return {**os.environ, **FAVOURS, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}


def keep_to(threads: int):
    """For a new process: as many processors as threads, so that libraries which count processors start no more."""
    chosen = sorted(os.sched_getaffinity(0))[:threads]
    return lambda: os.sched_setaffinity(0, chosen)


class Worker:
    def __init__(self, peer: Peer, threads: int):
        self.peer, self.absent, self.version = peer, None, ""
        self._log = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(
            [sys.executable, WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log,
            env=environment(threads), preexec_fn=keep_to(threads))

    def prepare(self, job: dict) -> None:
        answer = self.ask({"peer": dataclasses.asdict(self.peer), "job": job}, PREPARE_SECONDS)
        self.absent, self.version = answer.get("absent"), answer.get("version", "")

    def ask(self, request: dict, seconds: float = 600) -> dict:
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise PeerFailed(f"{self.peer.title}: its process has ended\n{self._last_words()}") from None
        if not select.select([self._process.stdout], [], [], seconds)[0]:
            self.close()
            raise PeerFailed(f"{self.peer.title}: no answer in {seconds:.0f} s\n{self._last_words()}")
        line = self._process.stdout.readline()
        answer = json.loads(line) if line else {"failed": f"ended with status {self._process.wait()}"}
        if "failed" in answer:
            raise PeerFailed(f"{self.peer.title}: {answer['failed']}\n{self._last_words()}")
        return answer

    def close(self) -> None:
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _last_words(self) -> str:
        self._log.seek(0)
        return "".join(self._log.readlines()[-15:])


@dataclasses.dataclass
class Result:
    """What one peer did."""

    key: str
    title: str
    version: str = ""
    # Why it took no part.
    absent: str | None = None
    # It is there, and ended with an error.
    failed: bool = False
    # Seconds a run: the median of each round.
    rounds: list[float] = dataclasses.field(default_factory=list)
    # From the reference, as the caller measures it; None where it was not.
    difference: float | None = None

    @property
    def best(self) -> float:
        return min(self.rounds)


def measure(peers: list[Peer], job: dict, threads: int, rounds: int, seconds: float, compare, after_turn, tell):
    """Results of all peers, in their order.

    compare(rows) gives the difference of a result; after_turn(peer) runs when a peer had its turn, before the next one;
    tell(text) shows progress.
    """
    results = {peer.title: Result(peer.key, peer.title) for peer in peers}
    workers = {}

    def attempt(peer: Peer, step) -> None:
        # One that fails must not lose the figures of all others.
        try:
            step(peer, results[peer.title])
        except PeerFailed as error:
            print(f"\n{error}", file=sys.stderr)
            results[peer.title].absent, results[peer.title].failed = f"failed: {str(error).splitlines()[0]}", True

    def prepare(peer: Peer, result: Result) -> None:
        tell(f"{peer.title}: prepares")
        worker = workers[peer.title] = Worker(peer, threads)
        worker.prepare(job)
        result.version, result.absent = worker.version, worker.absent
        if result.absent is None:
            result.difference = compare(_rows_of(worker))

    def take_turn(peer: Peer, result: Result) -> None:
        time.sleep(PAUSE_SECONDS)
        times = workers[peer.title].ask({"do": "time", "seconds": seconds, "least": 2})["times"]
        result.rounds.append(statistics.median(times))
        after_turn(peer)

    try:
        for peer in peers:
            attempt(peer, prepare)
        for turn in range(rounds):
            present = [peer for peer in peers if results[peer.title].absent is None]
            # Another one begins each time, so that none always follows the same.
            first = turn % max(len(present), 1)
            for peer in present[first:] + present[:first]:
                tell(f"{peer.title}: round {turn + 1} of {rounds}")
                attempt(peer, take_turn)
    finally:
        for worker in workers.values():
            worker.close()
    return list(results.values())


def _rows_of(worker: Worker) -> numpy.ndarray:
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "rows.npy"
        worker.ask({"do": "rows", "path": str(path)})
        return numpy.load(path)
