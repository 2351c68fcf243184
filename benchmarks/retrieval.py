"""The best of a million items for some queries, in fp32 and fewer bits, against PyTorch's product and topk."""

import dataclasses
import json
import pathlib
import subprocess
import tempfile

import numpy

from page import digits, table
from peers import PEERS as STACK_PEERS
from peers import Peer
from peers.ranking import PRECISIONS, WIDTH, RankingJob, byte_count
from rounds import Result, measure
from worker import encode

NAME = "Ranking"
ITEMS, QUICK_ITEMS = 1_000_000, 20_000
# Queries of a call, and how many items each of them gets.
QUERIES, COUNTS = (1, 64), (10, 100)
PEERS = [
    *(Peer("ultrac", f"ultrac {precision}", "compiled_ranking", (precision,)) for precision in PRECISIONS),
    *(Peer("pytorch", f"PyTorch {precision}", "pytorch_ranking", (precision,)) for precision in ("fp32", "bf16")),
]
# Of a score, as a share of the greatest: what rounding to these bits may cost.
TOLERANCE = {"fp32": 1e-5, "bf16": 2e-2, "int8": 2e-2, "int4": 2e-1}


@dataclasses.dataclass
class Ranking:
    queries: int
    count: int
    threads: int
    items: int
    # FLOP/s of fp32 multiply-adds, and bytes/s that memory gives.
    peak: float
    bandwidth: float
    results: list[Result]

    @property
    def failures(self) -> list[str]:
        place = f"{NAME}, {self.queries} queries, {self.count} best"
        return [f"{place}: {r.title}: {r.absent}" for r in self.results if r.failed] + [
            f"{place}: scores of {r.title} are {r.difference:.1e} off, more than {_tolerance(r):.1e}"
            for r in self.results
            if r.absent is None and not r.difference <= _tolerance(r)
        ]


def _precision(result: Result) -> str:
    return result.title.rpartition(" ")[2]


def _tolerance(result: Result) -> float:
    return TOLERANCE[_precision(result)]


def compare(options, tell) -> list[Ranking]:
    modules = {peer.module for peer in STACK_PEERS if peer.key in (options.peers or [peer.key])}
    kinds = {module.partition("_")[0] for module in modules}
    peers = [peer for peer in PEERS if peer.module.partition("_")[0] in kinds]
    if options.only not in NAME or not peers:
        return []
    items = QUICK_ITEMS if options.quick else ITEMS
    found = []
    with tempfile.TemporaryDirectory(prefix="ultrac-bench-") as folder:
        for threads in sorted({1, options.threads}):
            for count in COUNTS[:1] if options.quick else COUNTS:
                for queries in QUERIES:
                    job = RankingJob(items, queries, count, threads, pathlib.Path(folder), options.ultrac)
                    reference = job.scores()
                    results = measure(
                        peers, encode(job), threads, options.rounds, options.seconds,
                        compare=lambda got: float(numpy.abs(got - reference).max() / numpy.abs(reference).max()),
                        after_turn=lambda _: None,
                        tell=lambda text: tell(f"{NAME}, {queries} queries, {count} best, {threads} threads: {text}"))
                    found.append(Ranking(queries, count, threads, items, *_ceilings(job), results))
    return found


def _ceilings(job: RankingJob) -> tuple[float, float]:
    """What this machine gives at most: FLOP/s of fp32, bytes/s from memory."""
    artifact = job.folder / f"fp32.{job.k}.ultra"
    if not artifact.exists():
        return 0, 0
    command = [job.ultrac, "bench", artifact, "--lengths", "1", "--seconds", "0.001", "--runs", "1", "--json"]
    done = subprocess.run([*command, "--threads", str(job.threads)], check=True, capture_output=True, text=True)
    report = json.loads(done.stdout)
    return report["peaks"]["f32"], report["bandwidth"]


def lines(rankings: list[Ranking]) -> list[str]:
    if not rankings:
        return []
    titles = [r.title for r in rankings[0].results]
    body = [
        [
            f"{entry.queries} quer{'y' if entry.queries == 1 else 'ies'}, {entry.count} best, "
            f"{entry.threads} thread{'s' if entry.threads > 1 else ''}",
            *(_rate(entry, result) for result in entry.results),
        ]
        for entry in rankings
    ]
    reasons = dict.fromkeys(f"- {r.title}: {r.absent}" for entry in rankings for r in entry.results if r.absent)
    return [
        f"### {NAME}", "",
        f"Million items a second and query, the best round, of {rankings[0].items:,} items {WIDTH} wide; in brackets, for one query "
        "the share of what memory gives, for several that of the fp32 peak.", "",
        *table(["", *titles], body), "", *reasons, *([""] if reasons else []),
    ]


def _rate(entry: Ranking, result: Result) -> str:
    if not result.rounds:
        return "-"
    rate = entry.queries * entry.items / result.best
    if entry.queries == 1:
        precision = _precision(result)
        share = byte_count(entry.items, precision) / result.best / entry.bandwidth if entry.bandwidth else 0
    else:
        share = 2 * WIDTH * rate / entry.peak if entry.peak else 0
    return f"{digits(rate / 1e6)} ({100 * share:.0f} %)"
