"""Rows of an int4 table by id: what every peer is given, and what it should give."""

import dataclasses
import json
import pathlib

import numpy
from make_model import write_safetensors

# Rows that a call looks up, and calls after which ids come again: more than caches hold.
BATCH = 4096
CALLS = 256
# A batch is so many sequences, which matters to positions.
SEQUENCES = 16
# Rows that tell how long ago something was: as many as the published position and time encoder has.
TIMES = 2049
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
        """A row for each place in a sequence, as float16."""
        shape = (BATCH // SEQUENCES, self.width)
        return numpy.random.default_rng(5).standard_normal(shape, numpy.float32).astype(numpy.float16)

    def times(self) -> tuple[numpy.ndarray, list[numpy.ndarray]]:
        """A row for each of some times, as float16, of numbers that four bits hold exactly; and those that each call takes."""
        random = numpy.random.default_rng(6)
        table = 15 * random.integers(0, 2, (TIMES, self.width))
        return table.astype(numpy.float16), list(random.integers(0, TIMES, (CALLS, BATCH)))

    def write_model(self, name: str, with_rows: bool) -> pathlib.Path:
        """A model that is an embedding alone, in a folder of its own; position and time rows are added if asked for.

        model.json has no times: its table of actions, which is read and added the same way, stands for them.
        """
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        arrays = {"item": numpy.resize(self.block(), (self.table_rows, self.width))}
        if with_rows:
            arrays |= {"action": self.times()[0], "position": self.positions()}
        write_safetensors(
            folder / "weights.safetensors", [(name, array.shape) for name, array in arrays.items()],
            lambda file, names: [file.write(arrays[name].data) for name, _ in names], "F16")
        embedding = {"kind": "embedding", "item": {"rows": self.table_rows}}
        names = {"item_table": "item"}
        if with_rows:
            embedding |= {"action": {"rows": TIMES}, "position": {"rows": BATCH // SEQUENCES, "order": "ascending"}}
            names |= {"action_table": "action", "position_table": "position"}
        model = {
            "format": "ultrac-model/1", "name": name, "weights": ["weights.safetensors"], "width": self.width,
            "names": {"preset": "none", "map": names},
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
