"""Stacks: every case in every precision, by all peers in turns; and the tables of that."""

import dataclasses
import pathlib
import tempfile

import numpy

from machine import PEAK_ROWS, Peak
from page import digits, table
from peers import OURS, PEERS, Job, Peer
from peers.compiled import REWRITES, compile_model
from reference import difference, expected, tolerance
from rounds import Result, measure
from stacks import JAGGED, ML1M_LARGE, ML20M_LARGE, NARROW, PRODUCTION, QUICK_CASES, SEMI_LOCAL, Case, Stack
from worker import encode

PRECISIONS = ("fp32", "bf16")
EVERY = tuple(peer.key for peer in PEERS)


@dataclasses.dataclass(frozen=True)
class Row:
    """A case, and which peers take part in which precision: where a run takes seconds, those that come near the best."""

    case: Case
    peers: dict[str, tuple[str, ...]]


def _row(stack: Stack, lengths: tuple[int, ...], **peers: tuple[str, ...]) -> Row:
    return Row(Case(stack, lengths), {precision: (OURS, *others) for precision, others in peers.items()})


OTHERS = tuple(key for key in EVERY if key != OURS)
ROWS = [
    _row(PRODUCTION, (256,), fp32=OTHERS, bf16=OTHERS),
    _row(PRODUCTION, (1024,), bf16=("compile", "blocked", "openvino")),
    _row(PRODUCTION, (4096,), fp32=("blocked", "openvino"), bf16=("compile", "blocked", "blocked-compile", "openvino")),
    _row(NARROW, (4096,), bf16=("blocked", "blocked-compile", "openvino")),
    _row(ML20M_LARGE, (1024,), bf16=("compile", "blocked", "openvino")),
    _row(SEMI_LOCAL, (4096,), bf16=("blocked", "blocked-compile")),
    _row(SEMI_LOCAL, (16384,), bf16=("blocked",)),
    _row(PRODUCTION, JAGGED, bf16=("blocked", "openvino")),
    _row(ML1M_LARGE, (200,), fp32=OTHERS),
]
QUICK_ROWS = [Row(case, {precision: EVERY for precision in PRECISIONS}) for case in QUICK_CASES]


@dataclasses.dataclass
class Comparison:
    """One case in one precision."""

    case: str
    stack: str
    batch: str
    precision: str
    flops: float
    # FLOP/s of this machine, measured between the turns.
    peak: float
    tolerance: float
    results: list[Result]

    def result(self, key: str) -> Result | None:
        return next((r for r in self.results if r.key == key and r.absent is None), None)

    @property
    def share_of_peak(self) -> float | None:
        ours = self.result(OURS)
        return self.flops / ours.best / self.peak if ours and ours.rounds else None

    @property
    def best_peer(self) -> Result | None:
        return min((r for r in self.results if r.key != OURS and r.rounds), key=lambda r: r.best, default=None)

    @property
    def failures(self) -> list[str]:
        place = f"{self.case}, {self.precision}"
        failed = [f"{place}: {r.title}: {r.absent}" for r in self.results if r.failed]
        return failed + [
            f"{place}: {r.title} is {r.difference:.1e} from the float64 reference, more than {self.tolerance:.1e}"
            for r in self.results
            if r.absent is None and not r.difference <= self.tolerance
        ]


def compare(row: Row, options, tell) -> list[Comparison]:
    """The row's case in every precision that the options leave, by their peers or by the row's own."""
    case = row.case
    chosen = {
        precision: [peer for peer in PEERS if peer.key in (options.peers or keys)] for precision, keys in row.peers.items()
        if precision in (options.precision or PRECISIONS)
    }
    if not chosen:
        return []
    with tempfile.TemporaryDirectory(prefix="ultrac-bench-") as name:
        folder = pathlib.Path(name)
        description = case.stack.write(folder)
        tell(f"{case.name}: the reference")
        reference = expected(case, case.inputs())
        found = []
        for precision, peers in chosen.items():
            artifact = folder / f"peak-{precision}.ultra"
            compile_model(options.ultrac, description, artifact, REWRITES[precision])
            peak = Peak(options.ultrac, artifact, precision, options.threads)
            job = Job(case, precision, options.threads, folder, options.ultrac)
            peak.measure()
            counted = case.stack.flops((PEAK_ROWS,))
            if peak.flops != counted:
                raise ValueError(f"{case.name}: ultrac counts {peak.flops:.0f} FLOP for {PEAK_ROWS} rows, not {counted:.0f}")
            results = measure(
                peers, encode(job), options.threads, options.rounds, options.seconds,
                compare=lambda rows: difference(rows.astype(numpy.float64), reference),
                after_turn=lambda peer: peak.measure() if peer.key == OURS else None,
                tell=lambda text: tell(f"{case.name}, {precision}: {text}"))
            found.append(Comparison(
                case.name, case.stack.name, case.batch, precision, case.flops, peak.rate,
                tolerance(precision, case), results))
        return found


def lines(comparisons: list[Comparison]) -> list[str]:
    """The tables, and what they leave out."""
    result = []
    for precision in PRECISIONS:
        rows = [c for c in comparisons if c.precision == precision]
        if not rows:
            continue
        peers = [peer for peer in PEERS if any(r.key == peer.key for c in rows for r in c.results)]
        others = [peer for peer in peers if peer.key != OURS]
        header = ["stack", "batch"]
        result += [f"### {precision}", "", "Milliseconds a forward, the best round; in brackets how many times ours.", ""]
        result += table(
            [*header, "ultrac", "of peak", *(peer.title for peer in others), "best peer"],
            [[*_place(c), _milliseconds(c), _share(c), *(_ratio(c, p) for p in others), _best(c)] for c in rows], 2)
        result += ["", "Milliseconds of all rounds: least, median, most.", ""]
        result += table(
            [*header, *(peer.title for peer in peers)],
            [[*_place(c), *(_spread(c.result(p.key)) for p in peers)] for c in rows], 2)
        result += ["", "Differences from the float64 reference, and the most that is allowed.", ""]
        result += table(
            [*header, "allowed", *(peer.title for peer in peers)],
            [[*_place(c), f"{c.tolerance:.1e}", *(_difference(c.result(p.key)) for p in peers)] for c in rows], 2)
        reasons = absences(rows)
        result += ["", *reasons, *([""] if reasons else [])]
    return result


def absences(comparisons: list[Comparison]) -> list[str]:
    """A line for each reason why a peer took no part, with the cases that it holds for."""
    places: dict[tuple[str, str], list[str]] = {}
    for comparison in comparisons:
        for r in comparison.results:
            if r.absent is not None:
                places.setdefault((r.title, r.absent), []).append(comparison.case)
    return [
        f"- {title}: {reason}" + ("" if len(cases) == len(comparisons) else f" ({'; '.join(cases)})")
        for (title, reason), cases in places.items()
    ]


def _place(comparison: Comparison) -> list[str]:
    return [comparison.stack, comparison.batch]


def _milliseconds(comparison: Comparison) -> str:
    ours = comparison.result(OURS)
    return digits(ours.best * 1e3) if ours and ours.rounds else "-"


def _share(comparison: Comparison) -> str:
    share = comparison.share_of_peak
    return "-" if share is None else f"{share:.0%}"


def _ratio(comparison: Comparison, peer: Peer) -> str:
    ours, theirs = comparison.result(OURS), comparison.result(peer.key)
    if theirs is None or not theirs.rounds:
        return "-"
    ratio = f" ({theirs.best / ours.best:.2f}x)" if ours and ours.rounds else ""
    return digits(theirs.best * 1e3) + ratio


def _best(comparison: Comparison) -> str:
    ours, theirs = comparison.result(OURS), comparison.best_peer
    return f"{theirs.best / ours.best:.2f}x" if ours and ours.rounds and theirs else "-"


def _spread(result: Result | None) -> str:
    if result is None or not result.rounds:
        return "-"
    return " / ".join(digits(time * 1e3) for time in (min(result.rounds), _median(result.rounds), max(result.rounds)))


def _median(times: list[float]) -> float:
    return float(numpy.median(times))


def _difference(result: Result | None) -> str:
    return f"{result.difference:.1e}" if result else "-"
