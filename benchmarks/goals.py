"""What was to be reached, and what was: a table over all sections. What was not measured stands as a dash."""

import own as own_models
import stacks
from comparison import Comparison
from lookup import WITH_ROWS, Lookup
from own import Own
from page import table
from peers.int4 import BATCH
from startup import Starts
from stacks import Case

# Share of a core's peak, in percent, that a prototype of one layer reached by hand, by rows, on one thread and on two.
PROTOTYPE = {
    ("layer-512", "bf16"): {256: (96, 97), 1024: (93, 93), 4096: (92, 91), 16384: (91, 91)},
    ("layer-256", "bf16"): {256: (94, 94), 1024: (91, 89), 4096: (88, 88), 16384: (87, 88)},
    ("layer-8x32", "bf16"): {256: (93, 91), 1024: (87, 89), 4096: (83, 84), 16384: (81, 77)},
    ("layer-64", "bf16"): {256: (80, 76), 1024: (83, 78), 4096: (79, 82), 16384: (81, 81)},
    ("layer-512", "fp32"): {256: (96, 97), 1024: (95, 95), 4096: (94, 93)},
}


class Figures:
    """What the sections found, by what it is of."""

    def __init__(self, comparisons: list[Comparison], lookups: list[Lookup], starts: list[Starts], own: list[Own]):
        self._comparisons, self._lookups, self._starts, self._own = comparisons, lookups, starts, own

    def times_peer(self, case: Case, precision: str) -> float | None:
        """The best peer's time over ours."""
        for c in self._comparisons:
            if c.case == case.name and c.precision == precision and c.best_peer and c.result("ultrac"):
                return c.best_peer.best / c.result("ultrac").best
        return None

    def own(self, key: str, precision: str, rows: int, threads: int) -> Own | None:
        return next(
            (o for o in self._own if (o.key, o.precision, o.rows, o.threads) == (key, precision, rows, threads)), None)

    def ratio(self, above: Own | None, below: Own | None, value=lambda o: o.seconds) -> float | None:
        return value(above) / value(below) if above and below and value(below) else None

    def rate(self, width: int, threads: int, title: str) -> float | None:
        """Million rows a second."""
        for entry in self._lookups:
            for r in entry.results:
                if (entry.width, entry.threads, r.title) == (width, threads, title) and r.rounds:
                    return BATCH / r.best / 1e6
        return None

    def start(self, key: str) -> float | None:
        return next((r.best for s in self._starts for r in s.results if r.key == key and r.rounds), None)


def _text(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _texts(values, form: str) -> str:
    return ", ".join(_text(value, form) for value in values)


def lines(comparisons: list[Comparison], lookups: list[Lookup], starts: list[Starts], own: list[Own]) -> list[str]:
    figures = Figures(comparisons, lookups, starts, own)
    return [
        "### To reach, and reached", "",
        "Times a peer: its best time over ours, of the best peer of the row. What bounds those that fall short stands under",
        "[What bounds it](#what-bounds-it).", "",
        *table(["work", "to reach", "reached"], [*_of_layers(figures), *_of_peers(figures), *_of_own(figures)], 3), "",
    ]


def _of_layers(figures: Figures) -> list[list[str]]:
    rows = []
    for (key, precision), shares in PROTOTYPE.items():
        for threads in (1, 2):
            found = [figures.own(key, precision, n, threads) for n in shares]
            title = own_models.LAYERS[key.removeprefix("layer-")]
            rows.append([
                f"layer, D {title[0]}, {title[1]} x {title[2]}, {precision}, {', '.join(map(str, shares))} rows, "
                + ("one thread" if threads == 1 else "two threads"),
                ", ".join(f"{pair[threads - 1] - 2} %" for pair in shares.values()),
                _texts([o.share_of_peak * 100 if o and o.share_of_peak else None for o in found], "{:.0f} %"),
            ])
    return rows


def _of_peers(figures: Figures) -> list[list[str]]:
    def row(work: str, goals: list[str], stack: stacks.Stack, lengths: list[tuple[int, ...]], precision: str = "bf16"):
        reached = _texts([figures.times_peer(Case(stack, n), precision) for n in lengths], "{:.2f}x")
        return [work, ", ".join(goals), reached]

    production = "6 layers, D 512, 4 x 128"
    return [
        row(f"{production}, bf16, 256, 1024, 4096 rows: times a peer", ["1.3x", "1.55x", "2.1x"], stacks.PRODUCTION,
            [(256,), (1024,), (4096,)]),
        row(f"{production}, fp32, 4096 rows: times a peer", ["1.5x"], stacks.PRODUCTION, [(4096,)], "fp32"),
        row("4 layers, D 256, 4 x 64, bf16, 4096 rows: times a peer", ["2.2x"], stacks.NARROW, [(4096,)]),
        row("16 layers, D 256, 8 x 32, bf16, 1024 rows: times a peer", ["2.9x"], stacks.ML20M_LARGE, [(1024,)]),
        row("6 layers, D 512, window 256 + prefix 128, bf16, 4096, 16384 rows: times a peer", ["1.7x", "1.7x"],
            stacks.SEMI_LOCAL, [(4096,), (16384,)]),
        row(f"{production}, bf16, 8 sequences of 64 to 1024 rows: times a peer", ["1.8x"], stacks.PRODUCTION, [stacks.JAGGED]),
    ]


def _of_own(figures: Figures) -> list[list[str]]:
    own, ratio = figures.own, figures.ratio
    semi_local = [own("semi-local", "bf16", n, 1) for n in (4096, 16384, 65536)]
    a_row = [o.seconds / o.rows if o else None for o in semi_local]
    dense = own("layer-512", "bf16", 16384, 1)
    flop_ratio = ratio(dense, semi_local[1], lambda o: o.flops or 0)
    time_ratio = ratio(dense, semi_local[1])
    paper = own("paper-hstu", "bf16", 16384, 2)

    def against(key: str, precision: str = "bf16") -> str:
        other = own(key, precision, 16384, 2)
        if paper is None or other is None:
            return "-"
        return f"{ratio(paper, other):.1f}x" + _text(ratio(paper, other, lambda o: o.flops or 0), " ({:.1f}x fewer FLOP)")

    def precision(name: str, rows: int, value=lambda o: o.seconds) -> float | None:
        return ratio(own("precision", "bf16", rows, 1), own("precision", name, rows, 1), value)

    def projections(o: Own) -> float:
        return o.projections

    movielens = own("movielens", "bf16", 200, 1)
    lengths = (1024, 4096, 16384)
    starts = figures.start("c")
    return [
        ["window 256 + tail 256, bf16, 16384 rows: share of peak of attention's kernel, with norm, gate, product", "80 %",
         _text(semi_local[1].attention_share * 100 if semi_local[1] and semi_local[1].attention_share else None, "{:.0f} %")],
        ["the same: time a row at 4096, 16384, 65536 rows, relative to the first", "within 5 %",
         _texts([a / a_row[0] if a and a_row[0] else None for a in a_row], "{:.2f}")],
        ["the same at 16384 rows against dense: ratio of times over ratio of FLOP", "95 %",
         _text(time_ratio / flop_ratio * 100 if time_ratio and flop_ratio else None, "{:.0f} %")],
        ["HSTU 10 layers over ULTRA 18 layers, 16384 rows, bf16, tail: truncated to 512 rows; to 2048", "10.8x",
         f"{against('paper-ultra-short')}; {against('paper-ultra-truncated')}"],
        ["the same, int8 products; key prefix in bf16", "21x",
         f"{against('paper-ultra-short-int8', 'int8')}; {against('paper-ultra-truncated-int8', 'int8')}; {against('paper-prefix')}"],
        ["int8 over bf16, 1024 rows: projections; all", "1.9x", f"{_text(precision('int8', 1024, projections), '{:.2f}x')}; "
         f"{_text(precision('int8', 1024), '{:.2f}x')}"],
        ["fp8 over bf16, 1024 rows: projections; all; file", "0.95x, half the bytes",
         f"{_text(precision('fp8', 1024, projections), '{:.2f}x')}; {_text(precision('fp8', 1024), '{:.2f}x')}; "
         f"{_text(ratio(own('precision', 'fp8', 1024, 1), own('precision', 'bf16', 1024, 1), lambda o: o.file_size), '{:.2f}')}"],
        ["MovieLens-100K, 200 films, bf16, one thread", "300 us", _text(movielens.seconds * 1e6 if movielens else None, "{:.0f} us")],
        ["int4 rows + position + time rows, 256 wide, one thread, two threads", "30, 55 M rows/s",
         _texts([figures.rate(256, threads, WITH_ROWS) for threads in (1, 2)], "{:.1f}")],
        ["two threads over one, layer, D 512, bf16, 1024, 4096, 16384 rows", "1.95x",
         _texts([ratio(own("layer-512", "bf16", n, 1), own("layer-512", "bf16", n, 2)) for n in lengths], "{:.2f}x")],
        ["the same, fp32", "1.95x",
         _texts([ratio(own("layer-512", "fp32", n, 1), own("layer-512", "fp32", n, 2)) for n in lengths], "{:.2f}x")],
        ["workspace, 10 layers, D 512, bf16, 16384 rows, two threads", "100 MB",
         _text(paper.workspace / 1e6 if paper else None, "{:.0f} MB")],
        ["process start to first result, from C", "20 ms", _text(starts * 1e3 if starts else None, "{:.1f} ms")],
        ["width 50 over width 64, 2 heads, fp32, 200 and 1024 rows", "1.3x at most",
         _texts([ratio(own("width-50", "fp32", n, 1), own("width-64", "fp32", n, 1)) for n in (200, 1024)], "{:.2f}x")],
        ["the same, bf16", "1.3x at most",
         _texts([ratio(own("width-50", "bf16", n, 1), own("width-64", "bf16", n, 1)) for n in (200, 1024)], "{:.2f}x")],
    ]
