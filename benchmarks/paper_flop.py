#!/usr/bin/env python3
"""The work of the published shapes as the compiler counts it, beside the figures of arXiv 2602.16986.

usage: paper_flop.py --ultrac PATH [--write docs/flop.md]

Compiles the models of examples/published as far as their program, on the shapes alone: no weight is read for it. Needs
numpy, as make_model.py does.
"""

import argparse
import dataclasses
import json
import pathlib
import subprocess
import sys
import tempfile

import page

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "examples" / "published"))
import make_model  # noqa: E402

BEGIN = "<!-- begin: make flop -->"

# TFLOP a sample at inference, as the paper gives them.
PAPER = {
    "paper-hstu-3072x6": 0.118,
    "paper-hstu-8192x11": 2.756,
    "paper-hstu-16384x10": 4.692,
    "paper-ultra-3072x14": 0.070,
    "paper-ultra-8192x18": 0.337,
    "paper-ultra-16384x18": 0.436,
}


@dataclasses.dataclass
class Work:
    """FLOP of one sequence of a shape's length."""

    name: str
    rows: int
    layers: int
    products: float
    # Every row and every earlier key; and what the model's own mask and truncation leave of it.
    causal: float
    trained: float
    # After the passes of -O2.
    final: float
    targets: bool

    @property
    def attention(self) -> float:
        return self.trained - self.products


def measure(ultrac: str, name: str, folder: pathlib.Path) -> Work:
    shape = make_model.SHAPES[name]
    model = make_model.describe(name, **shape)
    make_model.write_model(folder, model, make_model.empty)
    command = [ultrac, "compile", "model.json", "--json", "--emit", "tensor-ir", "-o", "program.tir"]
    command += ["--rows", str(shape["length"])]
    report = json.loads(subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE).stdout)
    causal = report["steps"][0]["flops"]
    trained, final = causal, causal
    for step in report["steps"]:
        final = step.get("flops", final)
        if step["exactness"] == "as trained":
            trained = final
    layer, width = model["layer"], model["width"]
    inner = layer["heads"] * layer["hidden_dim"]
    rows_of_layers = shape["length"] * model["layer_count"]
    for cut in model.get("truncation", []):
        rows_of_layers -= (shape["length"] - cut["keep"]) * (model["layer_count"] - cut["after"])
    products = 2 * width * (4 + len(layer["concatenate"])) * inner * rows_of_layers
    return Work(name, shape["length"], shape["layers"], products, causal, trained, final, shape.get("targets", False))


def digits(flop: float) -> str:
    return f"{flop / 1e12:.3f}"


def shapes_table(works: list[Work]) -> list[str]:
    lines = [
        "| shape | rows | layers | causal | as trained | of it products | of it attention | after `-O2` |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for work in works:
        cells = [work.name, f"{work.rows}", f"{work.layers}"]
        cells += [digits(x) for x in (work.causal, work.trained, work.products, work.attention, work.final)]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def paper_table(works: list[Work]) -> list[str]:
    lines = [
        "| shape | here, as trained | the paper | here / paper | paper, MFLOP a row and layer | products alone | "
        "with causal attention | with all n x n |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for work in works:
        if work.name not in PAPER:
            continue
        paper = PAPER[work.name] * 1e12
        places = work.rows * work.layers
        products = work.products / places
        causal = work.causal / places
        square = products + 2 * (causal - products) * work.rows / (work.rows + 1)
        lines.append(
            f"| {work.name} | {digits(work.trained)} | {digits(paper)} | {work.trained / paper:.2f} | "
            f"{paper / places / 1e6:.2f} | {products / 1e6:.2f} | {causal / 1e6:.2f} | {square / 1e6:.2f} |"
        )
    return lines


def layer_work(rows: float) -> float:
    """A layer of the ULTRA shapes on so many rows: products, and pairs under a window and a tail of 256 each."""
    window = tail = 256
    products = 14 * 512 * 512 * rows
    if rows <= window + tail:
        return products + 2048 * rows * (rows + 1) / 2
    # Rows before the tail see up to 257 keys, those of the tail all before them and themselves.
    near = window * (window + 1) / 2 + (rows - tail - window) * (window + 1)
    return products + 2048 * (near + tail * (rows - tail) + tail * (tail + 1) / 2)


def kept_rows(paper: float, layers: int, rows: int, full: int) -> int | None:
    """L' at which `full` layers on all rows and the rest on the latest L' need what the paper says; None for no such L'."""
    rest = (paper - full * layer_work(rows)) / (layers - full)
    if rest <= 0 or rest >= layer_work(rows):
        return None
    low, high = 1, rows
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if layer_work(middle) >= rest else (middle + 1, high)
    return low


def truncation_table(works: list[Work]) -> list[str]:
    counts = range(1, 8)
    lines = [
        "| shape | " + " | ".join(f"N1 = {count}" for count in counts) + " |",
        "|---|" + "---:|" * len(counts),
    ]
    for work in works:
        if not work.name.startswith("paper-ultra"):
            continue
        if abs(layer_work(work.rows) * work.layers / work.trained - 1) > 1e-9:
            sys.exit(f"{work.name}: layer_work gives {layer_work(work.rows) * work.layers}, the compiler {work.trained}")
        kept = [kept_rows(PAPER[work.name] * 1e12, work.layers, work.rows, count) for count in counts]
        lines.append(f"| {work.name} | " + " | ".join("-" if k is None else f"{k}" for k in kept) + " |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description="Counts the work of published shapes.")
    parser.add_argument("--ultrac", required=True, type=pathlib.Path, help="the compiler to use")
    parser.add_argument("--write", metavar="PAGE", type=pathlib.Path, help="write the tables into this page")
    arguments = parser.parse_args()
    works = []
    for name in make_model.SHAPES:
        with tempfile.TemporaryDirectory() as folder:
            works.append(measure(str(arguments.ultrac.resolve()), name, pathlib.Path(folder)))
    blocks = [shapes_table(works), paper_table(works), truncation_table(works)]
    print("\n\n".join("\n".join(lines) for lines in blocks))
    if arguments.write:
        page.write(arguments.write, BEGIN, *blocks)


if __name__ == "__main__":
    main()
