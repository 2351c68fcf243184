#!/usr/bin/env python3
"""What candidates cost from a history that is kept, beside computing the history again: a ranking model of MLPerf's DLRMv3 shape.

    benchmarks/cached_scoring.py --ultrac PATH             histories of 1024, 4096 and 16384 rows, 100 and 2048 candidates
    benchmarks/cached_scoring.py --ultrac PATH --quick     a small model and few runs: whether all works, not how fast

`make bench` runs it too, among its sections. 5 layers, D 512, 4 x 128, one contextual row, bf16; tables 512 wide, as many rows as a 64th of
the free memory holds in fp32, up to a million. Cold is `ultrac bench` of `forward`, history and candidates together; cached is that of `score`, which gets
what `prefill` gives; fp8 is the same with keys and values kept as codes. Weights are seeded.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import types

from page import digits, table
from peers.compiled import compile_model
from stacks import make_model

NAME = "cached scoring"
BF16 = "lower-precision{matmul=bf16,attention=bf16}"
HISTORIES, CANDIDATES = (1024, 4096, 16384), (100, 2048)
QUICK_HISTORIES, QUICK_CANDIDATES = (256, 1024), (10, 100)
MOST_ROWS, ROW_WIDTH, ITEMS_A_USER = 1_000_000, 512, 100


@dataclasses.dataclass(frozen=True)
class Shape:
    """The model's extents."""

    layers: int
    width: int
    heads: int
    head: int
    row_width: int
    item_rows: int


@dataclasses.dataclass
class Scoring:
    """One history with so many candidates; seconds of a call."""

    history: int
    candidates: int
    threads: int
    item_rows: int
    cold: float
    cold_p99: float
    cached: float
    cached_p99: float
    # FLOP of the cold call over those of the cached one.
    less_work: float
    coded: float
    coded_p99: float


def free_bytes() -> int:
    with open("/proc/meminfo", encoding="ascii") as file:
        fields = dict(line.split(":", 1) for line in file)
    return 1024 * int(fields["MemAvailable"].split()[0])


def shape_of(quick: bool) -> Shape:
    if quick:
        return Shape(layers=2, width=128, heads=2, head=64, row_width=64, item_rows=2000)
    rows = min(MOST_ROWS, free_bytes() // 64 // (4 * ROW_WIDTH))
    return Shape(layers=5, width=512, heads=4, head=128, row_width=ROW_WIDTH, item_rows=max(rows, 1000))


def describe(shape: Shape, longest: int) -> dict:
    norm = {"kind": "layer_norm", "affine": True, "epsilon": 1e-6}
    users = max(shape.item_rows // ITEMS_A_USER, 1)

    def mlp(hidden):
        return {"hidden": hidden, "epsilon": 1e-5}

    def rows(count):
        return {"rows": count, "width": shape.row_width, "out_of_range": "modulo"}

    return {
        "format": "ultrac-model/1",
        "name": "dlrm-v3-ranking",
        "weights": ["weights.safetensors"],
        "width": shape.width,
        "names": {"preset": "gr-production"},
        "sequence": {"targets": True},
        "input": {
            "kind": "events",
            "tables": {"item": rows(shape.item_rows), "user": rows(users)},
            "features": {"item_ids": "item"},
            "content": {"features": ["item_ids"], "mlp": mlp(256)},
            "action": {"bits": [1, 2, 4, 8], "width": 8, "targets": "learned", "mlp": mlp(256)},
            "combine": "sum",
            "contextual": [{"feature": "user_ids", "table": "user", "slots": 1}],
            "scale": "sqrt(width)",
            "position": {"rows": 8192, "order": "descending"},
            "time": {"rows": 2049, "scale": "square_root", "unit": 60},
        },
        "layer_count": shape.layers,
        "layer": {
            "heads": shape.heads, "attention_dim": shape.head, "hidden_dim": shape.head, "alpha": "1/sqrt(attention_dim)",
            "divisor": longest, "activations": {"u": "silu", "v": "none", "q": "none", "k": "none"},
            "input_norm": norm, "uvqk": {"bias": True}, "mask": {"form": "causal", "contextual": 0},
            "output_norm": norm, "concatenate": ["u", "attention", "gated"], "output": {"bias": False},
        },
        "output": {
            "rows": "targets", "norm": {"kind": "l2", "epsilon": 1e-6},
            "ranking": {
                "items": {"features": ["item_ids"], "mlp": mlp(512)}, "mlp": mlp(512),
                "tasks": [{"name": "click", "kind": "binary"}],
            },
        },
    }


def tensors(shape: Shape, model: dict):
    """Names and shapes of the weights, as GR's modules have them."""

    def mlp(name, inner, hidden, outer, has_norm=True):
        yield from ((f"{name}.0.weight", (hidden, inner)), (f"{name}.0.bias", (hidden,)))
        yield from ((f"{name}.1.weight", (hidden,)), (f"{name}.1.bias", (hidden,)))
        yield from ((f"{name}.2.weight", (outer, hidden)), (f"{name}.2.bias", (outer,)))
        if has_norm:
            yield from ((f"{name}.3.weight", (outer,)), (f"{name}.3.bias", (outer,)))

    transducer = "_hstu_transducer."
    preprocessor = transducer + "_input_preprocessor."
    for name, described in model["input"]["tables"].items():
        yield f"_embedding_collection.embeddings.{name}.weight", (described["rows"], shape.row_width)
    yield from mlp(preprocessor + "_content_embedding_mlp", shape.row_width, 256, shape.width)
    bits = len(model["input"]["action"]["bits"])
    yield preprocessor + "_action_encoder._action_embedding_table", (bits, 8)
    yield preprocessor + "_action_encoder._target_action_embedding_table", (1, bits * 8)
    yield from mlp(preprocessor + "_action_embedding_mlp", bits * 8, 256, shape.width)
    yield preprocessor + "_batched_contextual_linear_weights", (1, shape.row_width, shape.width)
    yield preprocessor + "_batched_contextual_linear_bias", (1, shape.width)
    yield transducer + "_positional_encoder._position_embeddings_weight", (8192, shape.width)
    yield transducer + "_positional_encoder._timestamp_embeddings_weight", (2049, shape.width)
    inner = shape.heads * shape.head
    for i in range(shape.layers):
        layer = f"{transducer}_stu_module._stu_layers.{i}."
        yield layer + "_uvqk_weight", (shape.width, 4 * inner)
        yield layer + "_uvqk_beta", (4 * inner,)
        yield layer + "_output_weight", (3 * inner, shape.width)
        for part in ("weight", "bias"):
            yield f"{layer}_input_norm_{part}", (shape.width,)
            yield f"{layer}_output_norm_{part}", (inner,)
    yield from mlp("_item_embedding_mlp", shape.row_width, 512, shape.width)
    yield from mlp("_multitask_module._prediction_module", shape.width, 512, 1, has_norm=False)


def measure(options, tell) -> list[Scoring]:
    if options.only not in NAME:
        return []
    shape = shape_of(options.quick)
    histories = QUICK_HISTORIES if options.quick else HISTORIES
    candidates = QUICK_CANDIDATES if options.quick else CANDIDATES
    found = []
    with tempfile.TemporaryDirectory(prefix="ultrac-bench-") as name:
        folder = pathlib.Path(name)
        tell(f"{NAME}: writing and compiling the model")
        model = describe(shape, max(histories) + max(candidates) + 1)
        make_model.write_safetensors(folder / "weights.safetensors", list(tensors(shape, model)), make_model.seeded)
        (folder / "model.json").write_text(json.dumps(model), encoding="utf-8")
        artifact, coded = folder / "model.ultra", folder / "coded.ultra"
        compile_model(options.ultrac, folder / "model.json", artifact, f"{BF16},cached-scoring")
        compile_model(options.ultrac, folder / "model.json", coded, f"{BF16},cached-scoring{{cache=fp8}}")
        (folder / "weights.safetensors").unlink()
        for threads in sorted({1, options.threads}):
            for count in candidates:
                points = {}
                for file, entry, title in (
                    (artifact, "forward", "cold"), (artifact, "score", "cached"), (coded, "score", "fp8")
                ):
                    for history in histories:
                        tell(f"{NAME}: {history} rows, {count} candidates, {threads} threads, {title}")
                        points[title, history] = _bench(file, entry, history, count, threads, options)
                for history in histories:
                    cold, cached, fp8 = (points[title, history] for title in ("cold", "cached", "fp8"))
                    found.append(Scoring(
                        history, count, threads, shape.item_rows, cold["median"], cold["p99"], cached["median"],
                        cached["p99"], cold["flops"] / cached["flops"], fp8["median"], fp8["p99"]))
    return found


def _bench(artifact: pathlib.Path, entry: str, history: int, candidates: int, threads: int, options) -> dict:
    command = [options.ultrac, "bench", artifact, "--entry", entry, "--history", str(history)]
    command += ["--candidates", str(candidates), "--threads", str(threads), "--seconds", str(options.seconds), "--json"]
    command += ["--runs", "2" if options.quick else "20" if entry == "score" else "3"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}: {done.stderr.strip()}")
    return json.loads(done.stdout)["points"][0]


def lines(found: list[Scoring]) -> list[str]:
    if not found:
        return []
    body = [
        [str(s.history), str(s.candidates), str(s.threads), _time(s.cold), _time(s.cold_p99), _rate(s, s.cold), _time(s.cached),
         _time(s.cached_p99), _rate(s, s.cached), f"{s.cold / s.cached:.1f} x", f"{s.less_work:.1f} x",
         _time(s.coded), _time(s.coded_p99), _rate(s, s.coded)]
        for s in found
    ]
    header = ["history", "candidates", "threads", "cold", "p99", "candidates/s", "cached", "p99", "candidates/s", "faster", "less work"]
    header += ["fp8 cache", "p99", "candidates/s"]
    return [
        "### Cached scoring", "",
        f"Candidates of one user, by a ranking model with an item table of {found[0].item_rows:,} rows: with their history, and from what is "
        "kept of it. Medians; p99 is the slowest run where there are fewer than a hundred.", "",
        *table(header, body, 0), "",
    ]


def _rate(scoring: Scoring, seconds: float) -> str:
    return f"{scoring.candidates / seconds:,.0f}"


def _time(seconds: float) -> str:
    return f"{digits(seconds * 1e3)} ms" if seconds < 1 else f"{digits(seconds)} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ultrac", required=True, help="the compiler to use")
    parser.add_argument("--threads", type=int, default=1, help="in a second pass, where there are more than one (default: 1)")
    parser.add_argument("--seconds", type=float, help="of each measurement (default: 3; --quick: 0.05)")
    parser.add_argument("--quick", action="store_true", help="a small model and few runs")
    parsed = parser.parse_args()
    options = types.SimpleNamespace(
        ultrac=str(pathlib.Path(parsed.ultrac).resolve()), only="", quick=parsed.quick,
        threads=max(1, min(parsed.threads, len(os.sched_getaffinity(0)))),
        seconds=parsed.seconds or (0.05 if parsed.quick else 3.0))
    cases = 3 * len(HISTORIES) * len(CANDIDATES) * len({1, options.threads})
    if parsed.quick:
        cases = 3 * len(QUICK_HISTORIES) * len(QUICK_CANDIDATES) * len({1, options.threads})
    done = -1

    def tell(text: str) -> None:
        nonlocal done
        done += 1
        if sys.stderr.isatty():
            filled = 20 * min(done, cases + 1) // (cases + 1)
            print(f"\r\033[K[{'#' * filled}{'.' * (20 - filled)}] {text}", end="", file=sys.stderr, flush=True)

    found = measure(options, tell)
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)
    print("\n".join(lines(found)))


if __name__ == "__main__":
    main()
