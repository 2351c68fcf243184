#!/usr/bin/env python3
"""What lower precision and rewrites cost two trained models: HR@10 and NDCG@10 over all 943 users of MovieLens-100K.

usage: movielens_quality.py --ultrac PATH [--write docs/quality.md] [--only TEXT]

Every variant is the same model.json compiled with other passes. Ends with status 1 where fp32 is not the trained model,
or where bf16, or fp8 with int4 tables, loses more than one per cent of NDCG@10.
"""

import argparse
import dataclasses
import pathlib
import subprocess
import sys
import tempfile

import numpy

import page

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "examples" / "movielens-100k"))
sys.path.insert(0, str(ROOT / "examples" / "python"))
import fetch_data  # noqa: E402
import recommend  # noqa: E402
import ultra_history  # noqa: E402

BEGIN = "<!-- begin: make quality -->"
LARGEST_LOSS = 0.01


@dataclasses.dataclass
class Variant:
    """One way of compiling a model: what `ultrac compile --rewrite` is given."""

    name: str
    rewrite: str = ""
    # Whether the loss of NDCG@10 is held to LARGEST_LOSS.
    held: bool = False
    # Nothing but exact passes: the result must be the trained model's.
    exact: bool = False
    # Whether users' last events alone are computed, from what is kept of those before them.
    kept: bool = False


def lower(matmul: str = "", attention: str = "", tables: str = "", items: str = "") -> str:
    options = {"matmul": matmul, "attention": attention, "tables": tables, "items": items}
    return "lower-precision{" + ",".join(f"{name}={value}" for name, value in options.items() if value) + "}"


PRECISIONS = [
    Variant("fp32", exact=True),
    Variant("bf16", lower("bf16", "bf16"), held=True),
    Variant("fp8 products, bf16 attention", lower("fp8", "bf16")),
    Variant("int8 products, bf16 attention", lower("int8", "bf16")),
    Variant("fp32, fp16 tables", lower(tables="fp16")),
    Variant("fp32, int8 tables", lower(tables="int8")),
    Variant("fp32, int4 tables", lower(tables="int4")),
    Variant("bf16, fp16 tables", lower("bf16", "bf16", "fp16")),
    Variant("bf16, int8 tables", lower("bf16", "bf16", "int8")),
    Variant("bf16, int4 tables", lower("bf16", "bf16", "int4")),
    Variant("fp8, bf16 attention, int4 tables", lower("fp8", "bf16", "int4"), held=True),
    Variant("int8, bf16 attention, int4 tables", lower("int8", "bf16", "int4")),
    Variant("fp32, bf16 items", lower(items="bf16")),
    Variant("fp32, int8 items", lower(items="int8")),
    Variant("fp32, int4 items", lower(items="int4")),
    Variant("bf16, bf16 items", lower("bf16", "bf16", items="bf16")),
    Variant("fp8, bf16 attention, int4 tables, int8 items", lower("fp8", "bf16", "int4", "int8")),
]
REWRITES = [
    *(Variant(f"window {rows}", f"semi-local-attention{{local={rows},global=0}}") for rows in (128, 64, 32)),
    *(Variant(f"window {rows}, tail 16", f"semi-local-attention{{local={rows},global=16}}") for rows in (128, 64, 32)),
    *(
        Variant(f"window {rows}, prefix 16", f"semi-local-attention{{local={rows},global=16,form=prefix}}")
        for rows in (128, 64, 32)
    ),
    Variant("latest 64 rows after 2 layers", "attention-truncation{after=2,keep=64,form=drop}"),
    Variant("latest 64 rows after 1 layer", "attention-truncation{after=1,keep=64,form=drop}"),
    Variant(
        "window 64, tail 16, latest 64 after 2",
        "semi-local-attention{local=64,global=16},attention-truncation{after=2,keep=64,form=drop}",
    ),
]
# Of a model that goes on from a history that is kept.
KEPT = [
    Variant("fp32, fp8 cache", "cached-scoring{cache=fp8}", kept=True),
    Variant("bf16, fp8 cache", lower("bf16", "bf16") + ",cached-scoring{cache=fp8}", kept=True),
]
MODELS = {"movielens-100k": PRECISIONS + KEPT + REWRITES, "movielens-ultra": PRECISIONS}


@dataclasses.dataclass
class Quality:
    hit_rate: float
    ndcg: float
    error: float
    size: int


def measure(ultrac: str, name: str, number: int, variant: Variant, folder: pathlib.Path) -> Quality:
    """Compiles a variant and runs all users through it."""
    artifact = folder / f"{name}.{number}.ultra"
    command = [ultrac, "compile", str(ROOT / "examples" / name / "retrieval.json"), "-o", str(artifact)]
    command += ["--target-cpu", "native"]
    if variant.rewrite:
        command += ["--rewrite", variant.rewrite]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{name}, {variant.name}: {done.stderr or done.stdout}")
    model = recommend.Model(artifact)
    reference = recommend.REFERENCES[name]
    histories = recommend.read_safetensors(fetch_data.histories_path(reference.history_length))
    batch = recommend.batch_of(histories, numpy.arange(len(histories["target_ids"])))
    results = run_kept(model, batch) if variant.kept else model.run(batch)
    hit_rate, ndcg = recommend.hit_rate_and_ndcg(results["top_ids"], histories["target_ids"])
    expected = recommend.read_safetensors(ROOT / "examples" / name / "expected.safetensors")["user_embeddings"]
    error = float(numpy.abs(results["user_embeddings"] - expected).max())
    return Quality(hit_rate, ndcg, error, artifact.stat().st_size)


def run_kept(model, batch: dict) -> dict:
    """Results for users' last events, from what is kept of those before them."""
    histories = ultra_history.Histories(model)
    ends, starts = batch["offsets"][1:], batch["offsets"][:-1]
    lengths = ends - starts

    def part(rows, lengths, times):
        names = ("item_ids", "actions", "timestamps")
        offsets = numpy.cumsum([0, *lengths], dtype=numpy.int64)
        return {**{name: batch[name][rows] for name in names}, "offsets": offsets, "query_timestamps": times}

    is_last = numpy.zeros(int(ends[-1]), bool)
    is_last[ends - 1] = True
    kept = [histories.new(int(length)) for length in lengths]
    # Before the last event, it was the request that was to come.
    histories.prefill(kept, part(~is_last, lengths - 1, batch["timestamps"][ends - 1]))
    return histories.extend(kept, part(is_last, numpy.ones_like(lengths), batch["query_timestamps"]))


def table(name: str, rows: list[tuple[Variant, Quality]]) -> list[str]:
    """The figures as a Markdown table; losses are relative to the first row."""
    base = rows[0][1]
    lines = [
        f"### {name}",
        "",
        "| variant | HR@10 | NDCG@10 | change of NDCG@10 | largest error of a user embedding |",
        "|---|---|---|---|---|",
    ]
    for variant, quality in rows:
        change = "" if variant.exact else f"{(quality.ndcg / base.ndcg - 1) * 100:+.2f} %"
        lines.append(f"| {variant.name} | {quality.hit_rate:.4f} | {quality.ndcg:.4f} | {change} | {quality.error:.1e} |")
    return lines + [""]


def failures(name: str, rows: list[tuple[Variant, Quality]]) -> list[str]:
    reference, base = recommend.REFERENCES[name], rows[0][1]
    found = []
    for variant, quality in rows:
        if variant.exact and (round(quality.hit_rate, 4), round(quality.ndcg, 4)) != (
            reference.hit_rate,
            reference.ndcg,
        ):
            found.append(
                f"{name}, {variant.name}: HR@10 {quality.hit_rate:.4f}, NDCG@10 {quality.ndcg:.4f}; "
                f"the trained model has {reference.hit_rate:.4f} and {reference.ndcg:.4f}"
            )
        if variant.held and quality.ndcg < base.ndcg * (1 - LARGEST_LOSS):
            found.append(
                f"{name}, {variant.name}: NDCG@10 {quality.ndcg:.4f}, more than one per cent below {base.ndcg:.4f}"
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures what lower precision and rewrites cost trained models.")
    parser.add_argument("--ultrac", required=True, help="the compiler to use")
    parser.add_argument("--write", metavar="PAGE", type=pathlib.Path, help="write the tables into this page")
    parser.add_argument("--only", metavar="TEXT", default="", help="fp32 and the variants whose name has this text")
    arguments = parser.parse_args()

    fetch_data.fetch()
    lines, wrong = [], []
    with tempfile.TemporaryDirectory() as folder:
        for name, variants in MODELS.items():
            chosen = [variant for variant in variants if variant.exact or arguments.only in variant.name]
            rows = []
            for number, variant in enumerate(chosen, 1):
                if sys.stderr.isatty():
                    print(f"\r\033[K{name} {number}/{len(chosen)}: {variant.name}", end="", file=sys.stderr)
                rows.append((variant, measure(arguments.ultrac, name, number, variant, pathlib.Path(folder))))
            if sys.stderr.isatty():
                print("\r\033[K", end="", file=sys.stderr)
            lines += table(name, rows)
            wrong += failures(name, rows)
    print("\n".join(lines))
    if arguments.write:
        page.write(arguments.write, BEGIN, lines)
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
