"""Ours: a model that looks queries up and ranks all items."""

import numpy

from peers import Prepared
from peers.compiled import Model, Pool, compile_model
from peers.ranking import RankingJob


def prepare(job: RankingJob, precision: str) -> Prepared:
    artifact = job.folder / f"{precision}.{job.k}.ultra"
    if not artifact.exists():
        rewrite = "" if precision == "fp32" else f"lower-precision{{items={precision}}}"
        compile_model(job.ultrac, job.write_model(), artifact, rewrite)
    model, pool, asked = Model(artifact), Pool(job.folder, job.threads), job.asked()
    inputs = {"item_ids": asked[0], "offsets": numpy.array([0, job.queries])}
    call = model.bind(inputs, parallel=pool.parallel, workers=pool.threads)
    turn = 0

    def rank(turn: int):
        call.replace("item_ids", asked[turn])
        call.run()
        return call

    def run():
        nonlocal turn
        turn = (turn + 1) % len(asked)
        return rank(turn)

    # The pool stays awake from call to call, as a server's under load would.
    pool.__enter__()
    return Prepared(run, lambda _: rank(0).results()["top_scores"], f"ultrac ({model.level})")
