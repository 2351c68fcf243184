"""The best of many items for some queries: what every peer is given, and what it should give."""

import dataclasses
import json
import pathlib

import numpy
from make_model import write_safetensors

WIDTH = 64
# Rows of random numbers, of which the items are made: each block of them anew by a factor of its own.
BLOCK = 1 << 16
# Sets of queries that calls take in turns.
CALLS = 8
PRECISIONS = ("fp32", "bf16", "int8", "int4")


@dataclasses.dataclass(frozen=True)
class RankingJob:
    items: int
    queries: int
    k: int
    threads: int
    folder: pathlib.Path
    ultrac: str

    def matrix(self) -> numpy.ndarray:
        """The items [items, width]."""
        random = numpy.random.default_rng(3)
        block = random.standard_normal((min(BLOCK, self.items), WIDTH), numpy.float32)
        blocks = -(-self.items // len(block))
        factors = random.uniform(0.5, 1, blocks).astype(numpy.float32)
        matrix = numpy.empty((self.items, WIDTH), numpy.float32)
        for index, factor in enumerate(factors):
            first = index * len(block)
            own = matrix[first : first + len(block)]
            numpy.multiply(numpy.roll(block[: len(own)], index, axis=1), factor, out=own)
        return matrix

    def asked(self) -> list[numpy.ndarray]:
        """Ids of each call: their rows are its queries."""
        return list(numpy.random.default_rng(4).integers(0, self.items, (CALLS, self.queries)))

    def scores(self) -> numpy.ndarray:
        """The scores of the first call's best items, best first, in fp64."""
        matrix = self.matrix()
        queries = matrix[self.asked()[0]].astype(numpy.float64)
        best = numpy.full((self.queries, self.k), -numpy.inf)
        for first in range(0, self.items, BLOCK):
            scores = queries @ matrix[first : first + BLOCK].T.astype(numpy.float64)
            best = -numpy.sort(-numpy.concatenate([best, scores], axis=1), axis=1)[:, : self.k]
        return best

    def write_model(self) -> pathlib.Path:
        """A model that looks queries up and ranks all items, in a folder of its own."""
        folder = self.folder / f"model.{self.k}"
        folder.mkdir(parents=True, exist_ok=True)
        weights = self.folder / "weights.safetensors"
        if not weights.exists():
            matrix = self.matrix()
            write_safetensors(weights, [("item", matrix.shape)], lambda file, _: file.write(matrix.data), "F32")
        model = {
            "format": "ultrac-model/1", "name": "ranking", "weights": ["../weights.safetensors"], "width": WIDTH,
            "names": {"preset": "none", "map": {"item_table": "item"}},
            "input": {"kind": "embedding", "item": {"rows": self.items}}, "layers": [],
            "output": {
                "rows": "all", "norm": {"kind": "none"},
                "top_k": {"k": self.k, "first_row": 0, "norm": {"kind": "none"}, "seen": "keep"},
            },
        }
        path = folder / "model.json"
        path.write_text(json.dumps(model), encoding="utf-8")
        return path


def byte_count(items: int, precision: str) -> int:
    """Bytes of the items that one call reads at least once."""
    row = {"fp32": 4 * WIDTH, "bf16": 2 * WIDTH, "int8": WIDTH + 8, "int4": WIDTH // 2 + 8}[precision]
    return items * row
