"""Ours: a model that is an embedding alone, its tables in int4 rows."""

import numpy

from peers import Prepared
from peers.compiled import Model, Pool, compile_model
from peers.int4 import BATCH, SEQUENCES, LookupJob

REWRITE = "lower-precision{tables=int4}"


def prepare(job: LookupJob, with_rows: bool) -> Prepared:
    name = "rows" if with_rows else "lookup"
    artifact = job.folder / f"{name}.ultra"
    if not artifact.exists():
        description = job.write_model(name, with_rows)
        compile_model(job.ultrac, description, artifact, REWRITE)
        (description.parent / "weights.safetensors").unlink()
    model, pool, batches = Model(artifact), Pool(job.folder, job.threads), job.batches()
    table, times = job.times()
    offsets = numpy.arange(SEQUENCES + 1) * (BATCH // SEQUENCES)
    inputs = {"item_ids": batches[0], "offsets": offsets} | ({"actions": times[0]} if with_rows else {})
    call = model.bind(inputs, parallel=pool.parallel, workers=pool.threads)
    turn = 0

    def look_up(turn: int) -> None:
        call.replace("item_ids", batches[turn])
        if with_rows:
            call.replace("actions", times[turn])
        call.run()

    def run():
        nonlocal turn
        turn = (turn + 1) % len(batches)
        look_up(turn)

    def rows(_):
        look_up(0)
        result = call.results()["out"]
        if with_rows:
            result = result - table[times[0]] - numpy.tile(job.positions().astype(numpy.float32), (SEQUENCES, 1))
        return result

    # The pool stays awake from call to call, as a server's under load would.
    pool.__enter__()
    return Prepared(run, rows, f"ultrac ({model.level})")
