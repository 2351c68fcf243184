#!/usr/bin/env python3
"""Compares compiled stacks with PyTorch eager in fp32, both on the same threads, taking turns.

    make compare-pytorch            installs PyTorch into .venv-pytorch and runs this

Each stack is made with seeded weights, compiled for this machine, and run by both on the same inputs; results must
agree to 1e-4 of their largest number. PyTorch gets what favours it: inference mode, weights in its layout, an allocator
that keeps memory instead of giving it back. Times are the best median of a few rounds, so that a busy moment of the
machine counts against neither.
"""

import argparse
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time

# glibc gives large blocks back to the kernel at once by default, which makes eager PyTorch up to three times slower.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "4294967296", "MALLOC_ARENA_MAX": "2"}
if os.environ.get("MALLOC_MMAP_THRESHOLD_") is None:
    os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **KEEP_MEMORY})

import numpy
import torch
from safetensors.numpy import load_file, save_file

# Name, layers, width, heads, width of a head, rows.
STACKS = [
    ("6 layers, D 512, 4 x 128", 6, 512, 4, 128, (256, 1024, 4096)),
    ("4 layers, D 256, 4 x 64", 4, 256, 4, 64, (256, 1024, 4096)),
    ("16 layers, D 256, 8 x 32", 16, 256, 8, 32, (1024,)),
    ("8 layers, D 50, 2 x 25", 8, 50, 2, 25, (200,)),
]


def make_model(folder, layers, width, heads, head):
    """Writes model.json and weights in the form of the benchmark's layer: SiLU on u, v, q and k, output of u * LN(a)."""
    generator = numpy.random.default_rng(1)
    weights = {}
    for i in range(layers):
        prefix = f"_hstu_transducer._stu_module._stu_layers.{i}."
        shapes = {
            "_input_norm_weight": [width], "_input_norm_bias": [width], "_uvqk_weight": [width, 4 * heads * head],
            "_uvqk_beta": [4 * heads * head], "_output_norm_weight": [heads * head], "_output_norm_bias": [heads * head],
            "_output_weight": [heads * head, width],
        }
        for name, shape in shapes.items():
            spread = 1 / shape[0] ** 0.5 if len(shape) == 2 else 0.1
            offset = 1 if name.endswith("norm_weight") else 0
            weights[prefix + name] = (generator.standard_normal(shape) * spread + offset).astype(numpy.float32)
    save_file(weights, folder / "weights.safetensors")
    norm = {"kind": "layer_norm", "affine": True, "epsilon": 1e-6}
    model = {
        "format": "ultrac-model/1", "name": "stack", "weights": ["weights.safetensors"], "width": width,
        "names": {"preset": "gr-production"}, "input": {"kind": "rows"}, "layer_count": layers,
        "layer": {
            "heads": heads, "attention_dim": head, "hidden_dim": head, "alpha": "1/sqrt(attention_dim)", "divisor": 4096,
            "activations": {"u": "silu", "v": "silu", "q": "silu", "k": "silu"}, "input_norm": norm,
            "uvqk": {"bias": True}, "mask": {"form": "causal"}, "output_norm": norm, "concatenate": ["gated"],
            "output": {"bias": False},
        },
        "output": {"rows": "all", "norm": {"kind": "none"}},
    }
    (folder / "model.json").write_text(json.dumps(model))
    return weights


class Stack:
    """The same stack in eager PyTorch, one dense sequence."""

    def __init__(self, weights, layers, width, heads, head):
        self.layers = [
            {
                name.split(".")[-1]: torch.from_numpy(value)
                for name, value in weights.items()
                if name.startswith(f"_hstu_transducer._stu_module._stu_layers.{i}.")
            }
            for i in range(layers)
        ]
        self.heads, self.head, self.width = heads, head, width

    def mask(self, rows):
        return torch.tril(torch.ones(rows, rows)) / 4096

    def __call__(self, x, mask):
        silu, norm = torch.nn.functional.silu, torch.nn.functional.layer_norm
        rows, inner = x.shape[0], self.heads * self.head
        for layer in self.layers:
            n = norm(x, (self.width,), layer["_input_norm_weight"], layer["_input_norm_bias"], 1e-6)
            u, v, q, k = silu(torch.addmm(layer["_uvqk_beta"], n, layer["_uvqk_weight"])).split(inner, dim=1)
            q, k, v = (t.view(rows, self.heads, self.head).transpose(0, 1) for t in (q, k, v))
            scores = torch.bmm(q * self.head**-0.5, k.transpose(1, 2))
            scores = silu(scores, inplace=True).mul_(mask)
            a = torch.bmm(scores, v).transpose(0, 1).reshape(rows, inner)
            y = u * norm(a, (inner,), layer["_output_norm_weight"], layer["_output_norm_bias"], 1e-6)
            x = torch.addmm(x, y, layer["_output_weight"])
        return x


def ours(ultrac, model, rows, threads, seconds):
    """Median milliseconds a forward, and the share of the peak measured beside it."""
    command = [ultrac, "bench", model, "--lengths", str(rows), "--threads", str(threads), "--seconds", str(seconds), "--json"]
    report = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    point = report["points"][0]
    return point["median"] * 1e3, point["flops"] / point["median"] / report["peakFlopsPerSecond"]


def pytorch(stack, x, mask, seconds):
    times = []
    start = time.perf_counter()
    while len(times) < 2 or time.perf_counter() - start < seconds:
        begin = time.perf_counter()
        stack(x, mask)
        times.append(time.perf_counter() - begin)
    return statistics.median(times) * 1e3


def agrees(ultrac, model, folder, stack, rows, width):
    x = numpy.random.default_rng(2).standard_normal((rows, width)).astype(numpy.float32)
    save_file({"x": x, "offsets": numpy.array([0, rows], numpy.int64)}, folder / "in.safetensors")
    subprocess.run(
        [ultrac, "run", model, "--inputs", folder / "in.safetensors", "--outputs", folder / "out.safetensors"],
        check=True, capture_output=True)
    got = load_file(folder / "out.safetensors")["out"]
    expected = stack(torch.from_numpy(x), stack.mask(rows)).numpy()
    return float(abs(got - expected).max() / abs(expected).max())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ultrac", required=True, help="the compiler to use")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--seconds", type=float, default=1.0, help="for each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="turns that each side takes")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    cpu = next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), platform.machine())
    print(f"{cpu}, {arguments.threads} threads, PyTorch {torch.__version__}, fp32, one sequence; milliseconds a forward\n")
    print(f"| {'stack':<26} | rows | PyTorch eager | ultrac | ratio | of peak | difference |")
    print(f"|{'-' * 28}|-----:|--------------:|-------:|------:|--------:|-----------:|")
    slowest = float("inf")
    for name, layers, width, heads, head, lengths in STACKS:
        with tempfile.TemporaryDirectory() as path, torch.inference_mode():
            folder = pathlib.Path(path)
            weights = make_model(folder, layers, width, heads, head)
            model = folder / "stack.ultra"
            subprocess.run(
                [arguments.ultrac, "compile", folder / "model.json", "-o", model, "--target-cpu", "native"],
                check=True, stdout=subprocess.DEVNULL)
            stack = Stack(weights, layers, width, heads, head)
            for rows in lengths:
                difference = agrees(arguments.ultrac, model, folder, stack, rows, width)
                x, mask = torch.randn(rows, width), stack.mask(rows)
                theirs, mine, share = float("inf"), float("inf"), 0.0
                for _ in range(arguments.rounds):
                    theirs = min(theirs, pytorch(stack, x, mask, arguments.seconds))
                    milliseconds, reached = ours(arguments.ultrac, model, rows, arguments.threads, arguments.seconds)
                    if milliseconds < mine:
                        mine, share = milliseconds, reached
                slowest = min(slowest, theirs / mine)
                print(
                    f"| {name:<26} | {rows:>4} | {theirs:>13.2f} | {mine:>6.2f} | {theirs / mine:>4.2f}x "
                    f"| {share:>6.0%}  | {difference:>10.1e} |", flush=True)
                if difference > 1e-4:
                    sys.exit("results differ")
    print(f"\nat least {slowest:.2f} times as fast as PyTorch eager")


if __name__ == "__main__":
    main()
