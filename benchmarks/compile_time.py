#!/usr/bin/env python3
"""How long a published shape takes to compile, and how much memory.

usage: compile_time.py --ultrac PATH [SHAPE ...]

Makes each model of examples/published with its weights, compiles it once as `ultrac compile` does by default, and prints a
row of docs/benchmarks.md. Needs numpy, as make_model.py does.
"""

import argparse
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "examples" / "published"))
import make_model  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures compilations of published shapes.")
    parser.add_argument("--ultrac", required=True, type=pathlib.Path, help="the compiler to use")
    parser.add_argument("shapes", nargs="*", default=["hstu-ultra-semi-local", "paper-ultra-16384x18"])
    arguments = parser.parse_args()
    print("| model | weights | on the clock | CPU time | peak memory | of the weights |")
    print("|---|---:|---:|---:|---:|---:|")
    for name in sorted(arguments.shapes, key=lambda name: make_model.SHAPES[name]["layers"]):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder)
            make_model.write_model(path, make_model.describe(name, **make_model.SHAPES[name]))
            weights = (path / "weights.safetensors").stat().st_size
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            start = time.monotonic()
            command = [str(arguments.ultrac.resolve()), "compile", "model.json"]
            subprocess.run(command, cwd=path, check=True, stdout=subprocess.DEVNULL)
            seconds = time.monotonic() - start
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        # Of the largest child so far: shapes are compiled from the smallest on.
        peak = after.ru_maxrss * 1024
        print(
            f"| {name} | {weights / 1e6:.1f} MB | {seconds:.1f} s | {cpu:.1f} s | {peak / 1e6:.0f} MB | {peak / weights:.2f} |"
        )


if __name__ == "__main__":
    main()
