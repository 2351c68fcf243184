#!/usr/bin/env python3
"""Recommends films with a compiled model: ctypes and numpy, nothing else.

    recommend.py model.ultra histories.safetensors [--expected expected.safetensors]

The histories hold the model's inputs. A user's recommendations are the ten films with the highest scores among those
not yet seen. With --expected, the results are compared with those of the trained model; a difference is an error.
"""

import argparse
import pathlib
import sys
import time

import numpy

from ultra import Model, read_safetensors


def recommend(scores, ids, offsets, count=10):
    """For each user the best unseen films, best first. The first score is that of film 1."""
    scores = scores.copy()
    for user in range(len(scores)):
        scores[user, ids[offsets[user] : offsets[user + 1]] - 1] = -numpy.inf
    return numpy.argsort(-scores, axis=1, kind="stable")[:, :count] + 1


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("histories")
    parser.add_argument("--expected", help="safetensors file with user_embeddings and top10_ids")
    parser.add_argument("--users", type=int, default=5, help="how many users to print (default: 5)")
    parser.add_argument("--write-raw", metavar="FOLDER", help="write the inputs as the model takes them, for the C example")
    options = parser.parse_args()

    start = time.perf_counter()
    model = Model(options.model)
    print(f"loaded {options.model} ({model.level}) in {1e3 * (time.perf_counter() - start):.3f} ms")
    inputs = read_safetensors(options.histories)

    if options.write_raw:
        folder = pathlib.Path(options.write_raw)
        folder.mkdir(parents=True, exist_ok=True)
        for port, array in zip(model.signature()["inputs"], model.convert(inputs)):
            array.tofile(folder / f"{port['name']}.bin")

    model.run(inputs)
    start = time.perf_counter()
    outputs = model.run(inputs)
    elapsed = time.perf_counter() - start
    users, films = len(inputs["offsets"]) - 1, len(inputs["item_ids"])
    print(f"{users} users, {films} films seen: {1e3 * elapsed:.3f} ms on 1 thread")

    expected = read_safetensors(options.expected) if options.expected else {}
    if "user_embeddings" in expected:
        worst = float(numpy.abs(outputs["user_embeddings"] - expected["user_embeddings"]).max())
        print(f"user embeddings differ from the reference by {worst:.2e} at most")
        if not worst <= 1e-5:
            sys.exit("more than 1e-5")
    best = recommend(outputs["scores"], inputs["item_ids"], inputs["offsets"])
    for user in range(min(options.users, users)):
        seen = inputs["item_ids"][inputs["offsets"][user] : inputs["offsets"][user + 1]]
        print(f"user {user}: last seen {seen[-5:].tolist()}, recommended {best[user].tolist()}")
    if "top10_ids" in expected:
        # Films whose scores differ by less than rounding may swap.
        ours = numpy.take_along_axis(outputs["scores"], best - 1, 1)
        theirs = numpy.take_along_axis(outputs["scores"], expected["top10_ids"].astype(numpy.int64) - 1, 1)
        same = int((numpy.abs(ours - theirs).max(axis=1) <= 1e-6).sum())
        print(f"the same ten films as the reference for {same} of {users} users")
        if same != users:
            sys.exit("recommendations differ")


if __name__ == "__main__":
    main()
