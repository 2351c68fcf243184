"""Ours: a model that is an embedding alone, its table in int4 rows."""

import numpy

from peers import Prepared
from peers.compiled import Model, Pool, compile_model
from peers.int4 import BATCH, LookupJob

REWRITE = "lower-precision{tables=int4}"


def prepare(job: LookupJob, with_positions: bool) -> Prepared:
    name = "positions" if with_positions else "lookup"
    description = job.write_model(name, with_positions)
    artifact = job.folder / f"{name}.ultra"
    compile_model(job.ultrac, description, artifact, REWRITE)
    (description.parent / "weights.safetensors").unlink()
    model, pool, batches = Model(artifact), Pool(job.folder, job.threads), job.batches()
    inputs = {"item_ids": batches[0], "offsets": numpy.array([0, BATCH])}
    call = model.bind(inputs, parallel=pool.parallel, workers=pool.threads)
    turn = 0

    def run():
        nonlocal turn
        turn = (turn + 1) % len(batches)
        call.replace("item_ids", batches[turn])
        call.run()

    def rows(_):
        call.replace("item_ids", batches[0])
        call.run()
        return call.results()["out"] - (job.positions().astype(numpy.float32) if with_positions else 0)

    # The pool stays awake from call to call, as a server's under load would.
    pool.__enter__()
    return Prepared(run, rows, f"ultrac ({model.level})")
