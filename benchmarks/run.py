#!/usr/bin/env python3
"""Compares compiled models with what else one could run on this machine, all in turns, in one run.

    make bench                                   everything, and writes docs/benchmarks.md; idle machines only: 40 minutes
    make bench BENCH="--quick"                   small cases, few minutes: whether all works, not how fast
    make bench BENCH="--only 4096 --peers ultrac,blocked,openvino"
    make bench BENCH="--only own"                no peers: what `ultrac bench` says of published shapes

Sections: what was to be reached, with what was; stacks against peers in fp32 and bf16; lookups in a table of int4 rows; the best of a million
items; candidates against a history that is kept; from the start of a process to its first result; our own models beside each other. Ends with status 1 where results differ by
more than their precision explains. Peers that cannot be installed or cannot do a case are named, and are no failure.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import sys

import cached_scoring
import comparison
import goals
import lookup
import machine
import own
import page
import retrieval
import startup
from peers import PEERS

BEGIN = "<!-- begin: make bench -->"
# Of the processors' time, before the run: more says that the machine is not idle.
BUSY = 0.2


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ultrac", required=True, help="the compiler to use")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="for every peer alike")
    parser.add_argument("--rounds", type=int, help="turns that each takes (default: 3; --quick: 2)")
    parser.add_argument("--seconds", type=float, help="of a turn (default: 1; --quick: 0.05)")
    parser.add_argument("--precision", choices=comparison.PRECISIONS, action="append", help="of stacks (default: both)")
    parser.add_argument("--only", metavar="TEXT", default="", help="cases whose name has this text")
    parser.add_argument("--peers", metavar="NAMES", help=f"of {','.join(peer.key for peer in PEERS)} (default: those that come near the best)")
    parser.add_argument("--quick", action="store_true", help="small cases and few rounds")
    parser.add_argument("--json", metavar="FILE", type=pathlib.Path, help="write the figures into this file too")
    parser.add_argument("--write", metavar="PAGE", type=pathlib.Path, help="write the tables into this page")
    arguments = parser.parse_args()
    if not 1 <= arguments.threads <= len(os.sched_getaffinity(0)):
        parser.error(f"--threads: this process may use {len(os.sched_getaffinity(0))} processors")
    arguments.rounds = arguments.rounds or (2 if arguments.quick else 3)
    arguments.seconds = arguments.seconds or (0.05 if arguments.quick else 1.0)
    known = [peer.key for peer in PEERS]
    arguments.peers = arguments.peers.split(",") if arguments.peers else None
    if unknown := set(arguments.peers or []) - set(known):
        parser.error(f"--peers: no {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    arguments.ultrac = str(pathlib.Path(arguments.ultrac).resolve())
    return arguments


def tell(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def described(about: dict, versions: list[str], options: argparse.Namespace) -> list[str]:
    """What was measured on, with what."""
    place = f"{about['processors']} processors" + (" under a hypervisor" if about["hypervisor"] else "")
    features = ", ".join(about["features"])
    text = [
        f"{about['processor']}, {place}, {features}; {about['memory']}; {about['system']}; {about['date']}, "
        f"commit {about['commit']}.",
        f"{options.threads} thread{'s' if options.threads > 1 else ''}; {options.rounds} rounds of "
        f"{options.seconds:g} s for each peer, in turns" + "".join(f"; {version}" for version in versions) + ".",
    ]
    if about["busy"] > BUSY:
        text.append(
            f"**The machine was not idle: {about['busy']:.1f} processors were busy before the run. Measure again.**")
    return text + [""]


def main() -> None:
    options = parse()
    about = machine.describe(options.threads) | {"busy": machine.busy_share()}
    if about["busy"] > BUSY:
        print(f"{about['busy']:.1f} processors are busy with something else: figures will be worth little", file=sys.stderr)
    rows = comparison.QUICK_ROWS if options.quick else comparison.ROWS
    comparisons = [c for row in rows if options.only in row.case.name for c in comparison.compare(row, options, tell)]
    lookups = lookup.compare(options, tell)
    rankings = retrieval.compare(options, tell)
    scorings = cached_scoring.measure(options, tell)
    starts = startup.compare(options, tell)
    ours = own.measure(options, tell)
    tell("")

    versions = sorted({r.version for c in [*comparisons, *lookups, *rankings, *starts] for r in c.results if r.version})
    lines = described(about, versions, options)
    lines += goals.lines(comparisons, lookups, starts, ours)
    lines += comparison.lines(comparisons) + lookup.lines(lookups) + retrieval.lines(rankings) + cached_scoring.lines(scorings)
    lines += startup.lines(starts) + own.lines(ours)
    print("\n".join(lines))
    if options.json:
        figures = {"machine": about, "versions": versions, "rounds": options.rounds, "seconds": options.seconds}
        for name, section in (("stacks", comparisons), ("lookups", lookups), ("rankings", rankings), ("scorings", scorings), ("starts", starts), ("own", ours)):
            figures[name] = [dataclasses.asdict(entry) for entry in section]
        options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    if options.write:
        page.write(options.write, BEGIN, lines)
    failures = [failure for entry in [*comparisons, *lookups, *rankings] for failure in entry.failures]
    if failures:
        sys.exit("\n".join(failures))


if __name__ == "__main__":
    main()
