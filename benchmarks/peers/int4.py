"""Rows of an int4 table by id: what every peer is given, and what it should give."""

import dataclasses
import json
import pathlib

import numpy
from make_model import write_safetensors

# Rows that a call looks up, and calls after which ids come again: more than caches hold.
BATCH = 4096
CALLS = 256
# Rows of random numbers, of which the table is made by repetition.
BLOCK = 1 << 16


@dataclasses.dataclass(frozen=True)
class LookupJob:
    width: int
    table_rows: int
    threads: int
    folder: pathlib.Path
    ultrac: str

    def block(self) -> numpy.ndarray:
        """The first rows of the table, as float16; later ones repeat them."""
        count = min(BLOCK, self.table_rows)
        return numpy.random.default_rng(3).standard_normal((count, self.width), numpy.float32).astype(numpy.float16)

    def batches(self) -> list[numpy.ndarray]:
        """Ids of each call."""
        return list(numpy.random.default_rng(4).integers(0, self.table_rows, (CALLS, BATCH)))

    def positions(self) -> numpy.ndarray:
        """One more row for each place of a batch, which is one sequence, as float16."""
        return numpy.random.default_rng(5).standard_normal((BATCH, self.width), numpy.float32).astype(numpy.float16)

    def write_model(self, name: str, with_positions: bool) -> pathlib.Path:
        """A model that is an embedding alone, in a folder of its own."""
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        arrays = {"item": numpy.resize(self.block(), (self.table_rows, self.width))}
        if with_positions:
            arrays["position"] = self.positions()
        write_safetensors(
            folder / "weights.safetensors", [(name, array.shape) for name, array in arrays.items()],
            lambda file, names: [file.write(arrays[name].data) for name, _ in names], "F16")
        embedding = {"kind": "embedding", "item": {"rows": self.table_rows}}
        if with_positions:
            embedding["position"] = {"rows": BATCH, "order": "ascending"}
        model = {
            "format": "ultrac-model/1", "name": name, "weights": ["weights.safetensors"], "width": self.width,
            "names": {"preset": "none", "map": {"item_table": "item", "position_table": "position"}},
            "input": embedding, "layers": [], "output": {"rows": "all", "norm": {"kind": "none"}},
        }
        path = folder / "model.json"
        path.write_text(json.dumps(model), encoding="utf-8")
        return path


def tolerance(block: numpy.ndarray) -> float:
    """How far a decoded number may be from the one in the table: half a step, and what fp16 rounds off a row's minimum and
    off fifteen of its steps."""
    block = block.astype(numpy.float32)
    least, most = block.min(axis=1), block.max(axis=1)
    rounding = 2.0**-11 * (abs(least) + (most - least))
    return float(((most - least) / 30 + rounding).max())
