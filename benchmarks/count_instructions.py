#!/usr/bin/env python3
"""Counts the instructions that small compiled models run, under valgrind, and compares with the counts that are committed.

usage: count_instructions.py --ultrac PATH             compares; ends with status 1 where one is above its count
       count_instructions.py --ultrac PATH --update    writes instructions.json

Counts are the same on every machine and at any load, which seconds are not. valgrind knows AVX2 and no AVX-512: code for
x86-64-v3 is what runs. A plain C caller makes the call (call_once.c), and only the call is counted. Before that the same
call runs where the kernel ends the process at any system call: the hot path allocates nothing, locks nothing, waits for
nothing.
"""

import argparse
import concurrent.futures
import dataclasses
import json
import pathlib
import re
import subprocess
import sys
import tempfile

import numpy

from stacks import Case, KeyPrefix, Stack

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
COUNTS = HERE / "instructions.json"
PROFILES = ROOT / ".build" / "instructions"
# A change of less is none: code moves about when its neighbours change.
TOLERANCE = 0.02


@dataclasses.dataclass
class Program:
    """A model, what is passed to --rewrite, and its inputs in the order of its signature: file names and arrays."""

    name: str
    model: pathlib.Path | Stack
    rows: int
    sequences: int
    # Numbers that fit into each output.
    room: int
    inputs: dict[str, numpy.ndarray]
    rewrite: str = ""


def stack(name: str, stack: Stack, *lengths: int, rewrite: str = "") -> Program:
    case = Case(stack, lengths)
    inputs = {"x.f32": case.inputs(), "offsets.i64": numpy.cumsum([0, *lengths])}
    return Program(name, stack, case.rows, len(lengths), case.rows * stack.width, inputs, rewrite)


def research(name: str, rows: int, rewrite: str = "") -> Program:
    """The trained research model, whose scores have a bias of relative time and position."""
    random = numpy.random.default_rng(6)
    times = 880_000_000 + numpy.cumsum(random.integers(0, 100_000, rows + 1))
    inputs = {
        "item_ids.i64": random.integers(1, 1683, rows), "offsets.i64": numpy.array([0, rows]),
        "timestamps.i64": times[:-1], "query_timestamps.i64": times[-1:],
    }
    return Program(name, ROOT / "examples/movielens-100k/model.json", rows, 1, 1682, inputs, rewrite)


BF16, INT8 = (f"lower-precision{{matmul={kind},attention=bf16}}" for kind in ("bf16", "int8"))
PROGRAMS = [
    stack("causal, 1 x 64", Stack(1, 128, 2, 64), 200),
    stack("causal, 4 x 32", Stack(1, 128, 4, 32), 100),
    stack("odd widths, 2 x 25", Stack(1, 50, 2, 25), 150),
    stack("semi-local", Stack(1, 64, 2, 32, KeyPrefix(window=64, prefix=16)), 300),
    stack("jagged", Stack(1, 64, 2, 32), 1, 90, 33),
    research("research model, time bias", 60),
    stack("bf16", Stack(1, 128, 2, 64), 100, rewrite=BF16),
    stack("int8", Stack(1, 128, 2, 64), 100, rewrite=INT8),
    research("research model, bf16, int4 tables", 60, BF16.replace("}", ",tables=int4}")),
]


@dataclasses.dataclass
class Callers:
    """call_once.c, built to count instructions, and to be ended by a system call during the call."""

    counted: pathlib.Path
    confined: pathlib.Path


def build_callers(folder: pathlib.Path) -> Callers:
    callers = Callers(folder / "call_counted", folder / "call_confined")
    for path, define in ((callers.counted, "COUNT_INSTRUCTIONS"), (callers.confined, "NO_SYSTEM_CALLS")):
        command = ["cc", "-O2", "-std=c11", f"-D{define}", f"-I{ROOT / 'include'}", "-o", path, HERE / "call_once.c", "-ldl"]
        subprocess.run(command, check=True)
    return callers


def count(program: Program, ultrac: str, callers: Callers, folder: pathlib.Path) -> int:
    """Instructions of one call, on one thread, which must make no system call."""
    folder.mkdir()
    model = program.model.write(folder) if isinstance(program.model, Stack) else program.model
    artifact = folder / "model.ultra"
    command = [ultrac, "compile", model, "-o", artifact, "--target-cpu", "x86-64-v3"]
    done = subprocess.run(
        command + (["--rewrite", program.rewrite] if program.rewrite else []), capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{program.name}: {done.stderr.strip()}")
    paths = []
    for name, values in program.inputs.items():
        paths.append(folder / name)
        values.tofile(paths[-1])
    profile = profile_of(program)
    arguments = [artifact, *(str(number) for number in (program.rows, program.sequences, program.room)), *paths]
    # The kernel ends the process at the call's first system call.
    done = subprocess.run([callers.confined, *arguments], capture_output=True, text=True)
    if done.returncode != 0 or not done.stdout:
        raise RuntimeError(f"{program.name}: a call made a system call, or failed: status {done.returncode} {done.stderr}")
    command = ["valgrind", "--tool=callgrind", "--collect-atstart=no", f"--callgrind-out-file={profile}", callers.counted]
    command += arguments
    done = subprocess.run(command, capture_output=True, text=True)
    found = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode != 0 or not found:
        raise RuntimeError(f"{' '.join(map(str, command))}\n{done.stderr}{done.stdout}")
    return int(found[1])


def profile_of(program: Program) -> pathlib.Path:
    return PROFILES / (re.sub(r"\W+", "-", program.name) + ".callgrind")


def count_all(ultrac: str) -> dict[str, int]:
    PROFILES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="ultrac-instructions-") as name:
        folder = pathlib.Path(name)
        callers = build_callers(folder)

        def one(numbered):
            index, program = numbered
            return count(program, ultrac, callers, folder / str(index))

        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            found = list(pool.map(one, enumerate(PROGRAMS)))
    return {program.name: result for program, result in zip(PROGRAMS, found)}


def compare(found: dict[str, int], expected: dict[str, int]) -> tuple[list[str], list[str]]:
    """Lines to print, and what failed."""
    lines, failures = [], []
    for name in [*found, *(name for name in expected if name not in found)]:
        now, before = found.get(name), expected.get(name)
        if now is None or before is None:
            failures.append(f"{name}: {'is no program any more' if now is None else 'has no committed count'}")
            continue
        change = now / before - 1
        lines.append(f"  {name:26} {now:>12,}   {change:+.1%}")
        if change > TOLERANCE:
            failures.append(f"{name}: {now:,} instructions, {change:.1%} more than the committed {before:,}")
    return lines, failures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ultrac", required=True, help="the compiler to use")
    parser.add_argument("--update", action="store_true", help="write the counts instead of comparing with them")
    arguments = parser.parse_args()
    found = count_all(arguments.ultrac)
    if arguments.update:
        COUNTS.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        print(f"wrote {COUNTS.relative_to(ROOT)}: {len(found)} counts")
        return
    expected = json.loads(COUNTS.read_text(encoding="utf-8"))
    lines, failures = compare(found, expected)
    print("\n".join(["instructions of one call, against benchmarks/instructions.json", *lines]))
    if any(name in found and found[name] < before * (1 - TOLERANCE) for name, before in expected.items()):
        print("fewer than before: `make instructions` writes the new counts; commit them with the change that earned them")
    if failures:
        sys.exit("\n".join([
            "", *failures, "",
            "Where they are: callgrind_annotate FILE, on files in .build/instructions of this commit and of the one before;",
            "what the code is: ultrac compile --emit asm --target-cpu x86-64-v3. If the change is worth it, or if programs",
            "were added or removed: `make instructions` writes the new counts, and the commit says why.",
        ]))


if __name__ == "__main__":
    main()
