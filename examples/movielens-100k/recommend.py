#!/usr/bin/env python3
"""Compiles a model that was trained on MovieLens-100K and recommends films with it: numpy and ctypes are all it takes.

usage: recommend.py --ultrac PATH [--users 1,50,405]     last films seen, ten recommended, and the time it took
       recommend.py --ultrac PATH --check                all 943 users against what the trained model gives

There are two models: movielens-100k, a research HSTU with relative time and position bias, and movielens-ultra
(--model), production layers in the ULTRA form: semi-local attention, and deeper layers on the latest rows only.

../python/ultra.py loads and calls the compiled file.
"""

import argparse
import dataclasses
import json
import pathlib
import subprocess
import sys
import time

import numpy

import fetch_data

EXAMPLES = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(EXAMPLES / "python"))
from ultra import Model, read_safetensors  # noqa: E402


@dataclasses.dataclass
class Reference:
    """What a model was trained with, and its metrics over all users by the modules that trained it."""

    history_length: int
    hit_rate: float
    ndcg: float


REFERENCES = {
    "movielens-100k": Reference(history_length=200, hit_rate=0.1909, ndcg=0.0990),
    "movielens-ultra": Reference(history_length=256, hit_rate=0.1686, ndcg=0.0832),
}
EMBEDDING_TOLERANCE = 1e-5
# Films whose scores differ by less may change places: fp32 sums in another order do not tell them apart.
TIE = 1e-6


def batch_of(histories: dict[str, numpy.ndarray], users: numpy.ndarray) -> dict[str, numpy.ndarray]:
    """A model's inputs for some users (counted from 0): their histories, one after the other."""
    offsets = histories["offsets"]
    rows = [numpy.arange(offsets[user], offsets[user + 1]) for user in users]
    chosen = numpy.concatenate(rows)
    return {
        "item_ids": histories["item_ids"][chosen],
        "actions": histories["actions"][chosen],
        "timestamps": histories["timestamps"][chosen],
        "offsets": numpy.cumsum([0, *map(len, rows)], dtype=numpy.int64),
        "query_timestamps": histories["query_timestamps"][users],
    }


def hit_rate_and_ndcg(films: numpy.ndarray, targets: numpy.ndarray) -> tuple[float, float]:
    """HR@10 and NDCG@10 over all users: how often, and how high, the film seen next is among the ten best.

    films [users, ten], best first; targets [users], the film seen next.
    """
    found = films == targets[:, None]
    places = numpy.arange(films.shape[1])
    return float(found.any(axis=1).mean()), float((found / numpy.log2(places + 2.0)).sum(axis=1).mean())


def show(model: Model, histories: dict[str, numpy.ndarray], users: list[int]) -> None:
    """Prints what each user saw last and what is recommended, with the time from history to list."""
    titles = json.loads(fetch_data.TITLES.read_text(encoding="utf-8"))
    for user in users:
        batch = batch_of(histories, numpy.array([user - 1]))
        model.run(batch)  # the first call also brings the weights into memory
        start = time.perf_counter()
        films = model.run(batch)["top_ids"][0]
        elapsed = time.perf_counter() - start
        print(f"\nUser {user} has a history of {len(batch['item_ids'])} films. The last three:")
        for film in batch["item_ids"][-3:]:
            print(f"      {titles[film]}")
        print("  Recommended:")
        for place, film in enumerate(films, 1):
            mark = "   <- what this user saw next" if film == histories["target_ids"][user - 1] else ""
            print(f"  {place:2}  {titles[film]}{mark}")
        print(f"  {elapsed * 1e3:.2f} ms on one thread")


def check(name: str, model: Model, histories: dict[str, numpy.ndarray]) -> bool:
    """Compares all users' results with those of the model that was trained; prints one line for each comparison."""
    reference = REFERENCES[name]
    expected = read_safetensors(EXAMPLES / name / "expected.safetensors")
    batch = batch_of(histories, numpy.arange(len(histories["target_ids"])))
    results = model.run(batch)
    embeddings, scores, films = (results[key] for key in ("user_embeddings", "top_scores", "top_ids"))

    error = float(numpy.abs(embeddings - expected["user_embeddings"]).max())
    # Place for place: the same film, or one whose score is the expected score.
    moved = films != expected["top10_ids"]
    tied = numpy.abs(scores - expected["top10_scores"]) <= TIE
    wrong_lists = int((moved & ~tied).any(axis=1).sum())

    hit_rate, ndcg = hit_rate_and_ndcg(films, histories["target_ids"])

    lines = [
        ("largest embedding error", f"{error:.2e}", f"at most {EMBEDDING_TOLERANCE:.0e}", error <= EMBEDDING_TOLERANCE),
        ("lists that differ", f"{wrong_lists}", "0", wrong_lists == 0),
        ("HR@10", f"{hit_rate:.4f}", f"{reference.hit_rate:.4f}", round(hit_rate, 4) == reference.hit_rate),
        ("NDCG@10", f"{ndcg:.4f}", f"{reference.ndcg:.4f}", round(ndcg, 4) == reference.ndcg),
    ]
    print(f"{name}, {len(scores)} users")
    for name, value, wanted, passed in lines:
        print(f"  {name:24} {value:>9}   expected {wanted:14} {'pass' if passed else 'FAIL'}")
    return all(passed for *_, passed in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Compiles a trained model and recommends films with it.")
    parser.add_argument("--ultrac", required=True, help="the compiler to use")
    parser.add_argument("--model", default="movielens-100k", choices=REFERENCES, help="which of the two models")
    parser.add_argument("--users", default="1,50,405", help="users to recommend films to, from 1 to 943")
    parser.add_argument("--write-raw", metavar="FOLDER", help="write the inputs as the model takes them, for C")
    parser.add_argument("--check", action="store_true", help="compare all users with the trained model's results")
    arguments = parser.parse_args()

    fetch_data.fetch()
    artifact = fetch_data.CACHE / f"{arguments.model}-retrieval.ultra"
    # retrieval.json gives the ten best films that a user has not seen; model.json a score for every film.
    description = EXAMPLES / arguments.model / "retrieval.json"
    if subprocess.run([arguments.ultrac, "compile", str(description), "-o", str(artifact)]).returncode != 0:
        sys.exit(1)
    model = Model(artifact)
    histories = read_safetensors(fetch_data.histories_path(REFERENCES[arguments.model].history_length))
    if arguments.write_raw:
        folder = pathlib.Path(arguments.write_raw)
        folder.mkdir(parents=True, exist_ok=True)
        for port, array in zip(model.signature()["inputs"], model.convert(histories)):
            array.tofile(folder / f"{port['name']}.bin")
    if arguments.check:
        sys.exit(0 if check(arguments.model, model, histories) else 1)
    show(model, histories, [int(user) for user in arguments.users.split(",")])


if __name__ == "__main__":
    main()
