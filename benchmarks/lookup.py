"""Rows of an int4 table by id, against PyTorch's own operators; and the tables of that."""

import dataclasses
import pathlib
import tempfile

import numpy

from page import digits, table
from peers import PEERS as STACK_PEERS
from peers import Peer
from peers.int4 import BATCH, LookupJob, tolerance
from rounds import Result, measure
from worker import encode

NAME = "INT4 lookup"
WIDTHS = (128, 256, 512)
TABLE_ROWS, QUICK_TABLE_ROWS = 1_000_000, 10_000
OURS, WITH_ROWS = "ultrac", "ultrac, with position and time rows"
PEERS = [
    Peer("ultrac", OURS, "compiled_lookup", (False,)),
    Peer("ultrac", WITH_ROWS, "compiled_lookup", (True,)),
    Peer("pytorch", "embedding_4bit", "pytorch_lookup", (False,)),
    Peer("pytorch", "embedding_bag_4bit", "pytorch_lookup", (True,)),
]


@dataclasses.dataclass
class Lookup:
    width: int
    threads: int
    # From the numbers that were quantized.
    tolerance: float
    results: list[Result]

    @property
    def failures(self) -> list[str]:
        failed = [f"{NAME}, {self.width} wide: {r.title}: {r.absent}" for r in self.results if r.failed]
        return failed + [
            f"{NAME}, {self.width} wide: {r.title} is {r.difference:.1e} from the table, more than {self.tolerance:.1e}"
            for r in self.results
            if r.absent is None and not r.difference <= self.tolerance
        ]


def compare(options, tell) -> list[Lookup]:
    # PyTorch's lookups take part where any of its ways does.
    modules = {peer.module for peer in STACK_PEERS if peer.key in (options.peers or [peer.key])}
    kinds = {module.partition("_")[0] for module in modules}
    peers = [peer for peer in PEERS if peer.module.partition("_")[0] in kinds]
    if options.only not in NAME or not peers:
        return []
    rows = QUICK_TABLE_ROWS if options.quick else TABLE_ROWS
    found = []
    for width in WIDTHS[:1] if options.quick else WIDTHS:
        # The compiled models are for any number of threads.
        with tempfile.TemporaryDirectory(prefix="ultrac-bench-") as folder:
            for threads in sorted({1, options.threads}):
                job = LookupJob(width, rows, threads, pathlib.Path(folder), options.ultrac)
                block = job.block()
                reference = block[job.batches()[0] % len(block)].astype(numpy.float32)
                results = measure(
                    peers, encode(job), threads, options.rounds, options.seconds,
                    compare=lambda got: float(numpy.abs(got - reference).max()),
                    after_turn=lambda _: None,
                    tell=lambda text: tell(f"{NAME}, {width} wide, {threads} threads: {text}"))
                found.append(Lookup(width, threads, tolerance(block), results))
    return found


def lines(lookups: list[Lookup]) -> list[str]:
    if not lookups:
        return []
    titles = [r.title for r in lookups[0].results]
    body = [
        [f"{entry.width} wide, {entry.threads} thread{'s' if entry.threads > 1 else ''}", *map(_rate, entry.results)]
        for entry in lookups
    ]
    reasons = dict.fromkeys(f"- {r.title}: {r.absent}" for entry in lookups for r in entry.results if r.absent)
    return [
        f"### {NAME}", "",
        f"Million rows a second, the best round, with least to most of all rounds; {BATCH} random rows a call.", "",
        *table(["", *titles], body), "", *reasons, *([""] if reasons else []),
    ]


def _rate(result: Result) -> str:
    if not result.rounds:
        return "-"
    rates = [BATCH / seconds / 1e6 for seconds in result.rounds]
    return f"{digits(max(rates))} ({digits(min(rates))} to {digits(max(rates))})"
