"""A process of one peer and one job: reads requests, a line of JSON each, and answers likewise.

"time" gives the seconds of each forward, "rows" writes the last result to a file. It ends where its input does.
"""

import dataclasses
import json
import os
import pathlib
import sys
import time
import traceback

import numpy

from peers import Absent, Job, Peer
from peers.int4 import LookupJob
from peers.ranking import RankingJob
from stacks import Case, KeyPrefix, Stack


def encode(job: Job | LookupJob | RankingJob) -> dict:
    return dataclasses.asdict(job) | {"folder": str(job.folder)}


def decode(fields: dict) -> Job | LookupJob | RankingJob:
    fields = fields | {"folder": pathlib.Path(fields["folder"])}
    if "queries" in fields:
        return RankingJob(**fields)
    if "case" not in fields:
        return LookupJob(**fields)
    stack = fields["case"]["stack"]
    semi_local = KeyPrefix(**stack["semi_local"]) if stack["semi_local"] else None
    case = Case(Stack(**stack | {"semi_local": semi_local}), tuple(fields["case"]["lengths"]))
    return Job(**fields | {"case": case})


def time_runs(run, seconds: float, least: int) -> tuple[list[float], object]:
    times, result = [], None
    until = time.perf_counter() + seconds
    while len(times) < least or time.perf_counter() < until:
        begin = time.perf_counter()
        result = run()
        times.append(time.perf_counter() - begin)
    return times, result


def serve(replies, requests) -> None:
    def reply(**fields):
        print(json.dumps(fields), file=replies, flush=True)

    first = json.loads(next(requests))
    job = decode(first["job"])
    try:
        prepared = Peer(**first["peer"]).prepare(job)
        result = prepared.run()
    except Absent as error:
        reply(absent=str(error))
        return
    reply(version=prepared.version)
    for line in requests:
        request = json.loads(line)
        if request["do"] == "time":
            times, result = time_runs(prepared.run, request["seconds"], request["least"])
            reply(times=times)
        else:
            numpy.save(request["path"], prepared.rows(result).astype(numpy.float32))
            reply(saved=request["path"])


def main() -> None:
    # What libraries print must not come between the answers.
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        serve(replies, sys.stdin)
    except Exception as error:
        traceback.print_exc()
        print(json.dumps({"failed": f"{type(error).__name__}: {error}"}), file=replies, flush=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
