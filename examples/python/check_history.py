"""Checks ultra_history.py: what it makes of a user's history is, byte for byte, what the program in C made, and its lists are those of
the whole.

    check_history.py MODEL HISTORY     a compiled ../movielens-100k/retrieval.json, and what ../c/history.c stored of it
"""

import pathlib
import sys

import numpy

from ultra import Model
from ultra_history import Histories

EVENTS = 150


def main(model, stored):
    model = Model(model)
    histories = Histories(model)
    films, times = 1 + 7 * numpy.arange(EVENTS) % 1682, 880000000 + 3600 * numpy.arange(EVENTS)

    def events(*parts):
        """Some events of one user after the other, and when the next thing happened."""
        rows = numpy.concatenate([numpy.arange(first, end) for first, end in parts])
        ends = [end for _, end in parts]
        return {
            "item_ids": films[rows], "timestamps": times[rows],
            "offsets": numpy.cumsum([0, *(end - first for first, end in parts)]),
            "query_timestamps": numpy.array([times[end] if end < EVENTS else times[-1] + 60 for end in ends]),
        }

    kept = pathlib.Path(stored).read_bytes()
    history, other = histories.new(EVENTS), histories.new(EVENTS)
    histories.prefill([history, other], events((0, EVENTS - 1), (0, 20)))
    assert history.packed() == kept, "the bytes are others than those of the program in C"
    read = histories.load(kept, EVENTS)
    for several in ([(history, (EVENTS - 1, EVENTS))], [(read, (EVENTS - 1, EVENTS)), (other, (20, 25))]):
        found = histories.extend([one for one, _ in several], events(*(part for _, part in several)))
        whole = model.run(events(*((0, end) for _, (_, end) in several)))
        assert set(found) == set(whole)
        assert all((found[name] == whole[name]).all() for name in whole), "lists are others than those of the whole"
    assert history.block.tobytes() == read.block.tobytes() and other.rows == 25
    for place in (0, 8, 12, 16, 24, 32, 40, 48, 52, 56, 64):
        damaged = bytearray(kept)
        damaged[place] ^= 1
        try:
            histories.load(bytes(damaged))
        except ValueError:
            continue
        raise AssertionError(f"a block whose byte {place} is another one is taken")
    print(f"histories kept from Python: {len(kept)} bytes as from C, lists of the whole history")


if __name__ == "__main__":
    main(*sys.argv[1:])
