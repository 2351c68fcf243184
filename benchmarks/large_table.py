#!/usr/bin/env python3
"""A large table: what compiling it takes, and how fast its rows are looked up.

    make large-table                              10 million rows of 256 numbers: 10.2 GB of fp32 become 1.3 GB of int4
    make large-table LARGE="--rows 1000000 --folder large --keep"    with the checkpoint left for another run

The checkpoint is made here, the same each time, written and removed as a whole; it needs room on the disk, and without it
the figures are left out, plainly. Lookups are compared with a loop in C that does nothing but touch the same rows' cache
lines, in the same mapped file, in the same run.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile
import time

import numpy

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "examples" / "published"))
from peers.compiled import Model, Pool  # noqa: E402
from peers.int4 import BATCH, CALLS, SEQUENCES  # noqa: E402

# Times that lookups are measured, the best of which counts, and seconds of a turn of touching.
ROUNDS, SECONDS = 5, 0.3
# Rows that are made and written together.
CHUNK = 1 << 16


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ultrac", required=True, help="the compiler to use")
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--tables", default="int4", choices=("int4", "int8", "fp16", "fp32"))
    parser.add_argument("--folder", type=pathlib.Path, help="where the files go (default: a temporary folder)")
    parser.add_argument("--keep", action="store_true", help="leave the files, and use a checkpoint that is there")
    return parser.parse_args()


def write_checkpoint(path: pathlib.Path, rows: int, width: int) -> None:
    """One table of fp32 numbers around 0, a chunk of rows at a time, each from its own seed."""
    size = 4 * rows * width
    header = json.dumps({"item": {"dtype": "F32", "shape": [rows, width], "data_offsets": [0, size]}}).encode()
    header += b" " * (-len(header) % 8)
    unfinished = path.with_name(path.name + ".unfinished")
    with open(unfinished, "wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        for first in range(0, rows, CHUNK):
            random = numpy.random.default_rng((7, first))
            chunk = random.random((min(CHUNK, rows - first), width), numpy.float32)
            file.write(memoryview(chunk - numpy.float32(0.5)))
    os.replace(unfinished, path)


def write_model(folder: pathlib.Path, rows: int, width: int) -> pathlib.Path:
    """A model that is the table alone."""
    model = {
        "format": "ultrac-model/1", "name": "table", "weights": ["weights.safetensors"], "width": width,
        "names": {"preset": "none", "map": {"item_table": "item"}},
        "input": {"kind": "embedding", "item": {"rows": rows}},
        "layers": [], "output": {"rows": "all", "norm": {"kind": "none"}},
    }
    path = folder / "model.json"
    path.write_text(json.dumps(model), encoding="utf-8")
    return path


@dataclasses.dataclass
class Compilation:
    seconds: float
    # Peak of resident memory, in bytes, pages of mapped files among them.
    peak: int
    size: int


def compile_model(ultrac: str, model: pathlib.Path, artifact: pathlib.Path, tables: str) -> Compilation:
    command = [ultrac, "compile", str(model), "-o", str(artifact), "--target-cpu", "native"]
    if tables != "fp32":
        command += ["--rewrite", f"lower-precision{{tables={tables}}}"]
    start, peak = time.perf_counter(), 0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    # Not what the system counts at the end, which begins with the memory of this process.
    while process.poll() is None:
        status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
        peak = max([peak, *(1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))])
        time.sleep(0.005)
    if process.returncode != 0:
        sys.exit(f"{' '.join(command)}: status {process.returncode}")
    return Compilation(time.perf_counter() - start, peak, artifact.stat().st_size)


def reading_rate(path: pathlib.Path, drop: bool) -> float:
    """Bytes a second at which the file is read, some megabytes at a time; from the disk where `drop`."""
    window = bytearray(4 << 20)
    with open(path, "rb", buffering=0) as file:
        if drop:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        start, count = time.perf_counter(), 0
        while got := file.readinto(window):
            count += got
    return count / (time.perf_counter() - start)


def drop_from_memory(path: pathlib.Path) -> None:
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def mapping(path: pathlib.Path) -> dict[str, int]:
    """What /proc/self/smaps says of the largest mapping of a file, in kilobytes."""
    found, current = {}, {}
    for line in pathlib.Path("/proc/self/smaps").read_text().splitlines():
        words = line.split()
        if "-" in words[0] and not words[0].endswith(":"):
            current = {}
            if words[-1] == str(path):
                found[len(found)] = current
        elif len(words) == 3:
            current[words[0].rstrip(":")] = int(words[1])
    return max(found.values(), key=lambda fields: fields["Size"])


def lookups(artifact: pathlib.Path, rows: int, width: int, threads: int, folder: pathlib.Path) -> dict[str, float]:
    """Rows a second by compiled code, random ids in every call, and by a loop that only touches their lines."""
    model, pool = Model(artifact), Pool(folder, threads)
    weight = model.manifest["weights"][0]
    batches = list(numpy.random.default_rng(4).integers(0, rows, (CALLS, BATCH)))
    offsets = numpy.arange(SEQUENCES + 1) * (BATCH // SEQUENCES)
    call = model.bind({"item_ids": batches[0], "offsets": offsets}, parallel=pool.parallel, workers=threads)
    before = mapping(artifact)["Rss"]
    call.run()
    first = mapping(artifact)["Rss"] - before
    touch = folder / "touch_rows"
    if not touch.exists():
        subprocess.run(["cc", "-O2", "-std=gnu11", "-pthread", "-o", touch, HERE / "touch_rows.c"], check=True)
    # Weights end the file.
    start = artifact.stat().st_size - weights_size(model)
    row_bytes = weight["bytes"] // rows
    command = [touch, artifact, start + weight["offset"], row_bytes, rows, threads, SECONDS]
    best, ceiling = 0.0, (0.0, 0.0)
    with pool:
        for _ in range(ROUNDS):
            for batch in batches:
                call.replace("item_ids", batch)
                call.run()
            times = []
            for batch in batches:
                call.replace("item_ids", batch)
                began = time.perf_counter()
                call.run()
                times.append(time.perf_counter() - began)
            best = max(best, BATCH / sorted(times)[len(times) // 2])
    for _ in range(ROUNDS):
        done = subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True)
        found = tuple(map(float, done.stdout.split()))
        ceiling = max(ceiling, found)
    return {"rows": best, "touched": ceiling[0], "lines": ceiling[1], "first": first, "row_bytes": row_bytes}


def weights_size(model: Model) -> int:
    return max(weight["offset"] + weight["bytes"] for weight in model.manifest["weights"])


def room(folder: pathlib.Path, rows: int, width: int, tables: str) -> int:
    """Bytes that files will take, and some more."""
    row = {"int4": width // 2 + 4, "int8": width + 8, "fp16": 2 * width, "fp32": 4 * width}[tables]
    return int(1.1 * rows * (4 * width + row))


def main() -> None:
    options = parse()
    with contextlib.ExitStack() as stack:
        folder = options.folder or pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ultrac-large-")))
        folder.mkdir(parents=True, exist_ok=True)
        folder = folder.resolve()
        checkpoint, artifact = folder / "weights.safetensors", folder / "table.ultra"
        needed, free = room(folder, options.rows, options.width, options.tables), shutil.disk_usage(folder).free
        if not checkpoint.exists() and free < needed:
            print(f"left out: {folder} has {free / 1e9:.1f} GB free, {needed / 1e9:.1f} GB are needed")
            return
        try:
            measure(options, folder, checkpoint, artifact)
        finally:
            if not options.keep:
                for path in (checkpoint, artifact, folder / "model.json", folder / "touch_rows", folder / "libultra_pool.so"):
                    path.unlink(missing_ok=True)


def measure(options: argparse.Namespace, folder: pathlib.Path, checkpoint: pathlib.Path, artifact: pathlib.Path) -> None:
    rows, width = options.rows, options.width
    if not checkpoint.exists():
        write_checkpoint(checkpoint, rows, width)
    model = write_model(folder, rows, width)
    size = checkpoint.stat().st_size
    print(f"{rows:,} rows of {width} fp32 numbers, {size / 1e9:.2f} GB, to {options.tables}")
    print(f"  reading the checkpoint: {reading_rate(checkpoint, True) / 1e9:.2f} GB/s from the disk")
    for text, cold in (("from the disk", True), ("again", False)):
        if cold:
            drop_from_memory(checkpoint)
        done = compile_model(options.ultrac, model, artifact, options.tables)
        print(
            f"  compiling {text}: {done.seconds:.1f} s, {2 * size / done.seconds / 1e9:.2f} GB/s read (twice), "
            f"{done.size / 1e9:.2f} GB written, {done.peak / 1e6:.0f} MB resident at most")
    for threads in sorted({1, len(os.sched_getaffinity(0))}):
        found = lookups(artifact, rows, width, threads, folder)
        gigabytes = 64 * found["lines"] / 1e9
        print(
            f"  looking up, {threads} thread{'s' if threads > 1 else ''}: {found['rows'] / 1e6:.1f} M rows/s; touching the same "
            f"lines only: {found['touched'] / 1e6:.1f} M rows/s, {gigabytes:.1f} GB/s of lines; "
            f"{100 * found['rows'] / found['touched']:.0f} %")
        if threads == 1:
            print(f"  the first {BATCH} rows made {found['first'] / 1e3:.1f} MB resident")


if __name__ == "__main__":
    main()
