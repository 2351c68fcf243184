"""Runs compiled programs on the card at hand: correctness against fp64, then times by device events."""

import argparse
import json
import statistics
import sys
import time

import torch

from gpu_program import Driver, Program, read_weights
import reference


def batch(lengths, targets, width, seed):
    generator = torch.Generator().manual_seed(seed)
    offsets = torch.tensor([0] + lengths).cumsum(0)
    return torch.randn(int(offsets[-1]), width, generator=generator), offsets, torch.tensor(targets)


def check(program, weights, description, lengths, targets, seed):
    x, offsets, counts = batch(lengths, targets, description["width"], seed)
    program.prepare({"x": x.cuda()}, offsets, counts)
    program.poison()
    program.run()
    torch.cuda.synchronize()
    found = program.value("targets").double()
    expected = reference.model(x.cuda().double(), weights, description, offsets, counts, torch.float64)
    error = ((found - expected).norm() / expected.norm()).item() if expected.numel() else 0.0
    largest = (found - expected).abs().max().item() if expected.numel() else 0.0
    print(f"  lengths {lengths} targets {targets}: relative error {error:.2e}, largest {largest:.2e}", flush=True)
    again = found.clone()
    program.poison()
    program.run()
    torch.cuda.synchronize()
    same = torch.equal(again, program.value("targets").double())
    if not same:
        print("  NOT THE SAME BITS when run again")
    return error < 2e-2 and same


def check_alone(program, description, lengths, targets):
    """Whether each sequence has the same bits alone as among others."""
    x, offsets, counts = batch(lengths, targets, description["width"], 7)
    program.prepare({"x": x.cuda()}, offsets, counts)
    program.run()
    together = program.value("targets").clone()
    first, fine = 0, True
    for sequence, (length, count) in enumerate(zip(lengths, targets)):
        rows = x[int(offsets[sequence]):int(offsets[sequence + 1])]
        program.prepare({"x": rows.cuda()}, torch.tensor([0, length]), torch.tensor([count]))
        program.run()
        if count and not torch.equal(program.value("targets"), together[first:first + count]):
            print(f"  NOT THE SAME BITS alone: sequence {sequence} of {lengths}")
            fine = False
        first += count
    return fine


def seconds(run, least=0.2):
    """The median of device times."""
    run()
    torch.cuda.synchronize()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    times = []
    began = time.time()
    while time.time() - began < least or len(times) < 5:
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) * 1e-3)
    return statistics.median(times)


def seen_pairs(mask, length, targets):
    history = length - targets
    if mask["form"] == "causal":
        return history * (history + 1) // 2 + targets * (history + 1)
    window, tail = mask.get("window", mask.get("local")), mask.get("full_tail", 0)
    count = 0
    for p in range(history):
        count += p + 1 if p >= history - tail else min(p, window) + 1
    return count + targets * (history + 1)


def timings(program, description, lengths, targets, peak):
    layer = description["layer"]
    x, offsets, counts = batch(lengths, targets, description["width"], 1)
    program.prepare({"x": x.cuda()}, offsets, counts)
    width, inner = description["width"], layer["heads"] * layer["hidden_dim"]
    pairs = sum(seen_pairs(layer["mask"], n, t) for n, t in zip(lengths, targets))
    total = seconds(program.run)
    print(f"  lengths {lengths}: whole {total * 1e3:.3f} ms")
    for entry in program.ready[:7]:
        launch, blocks, columns, _, _ = entry
        took = seconds(lambda: program.launch(entry), 0.1)
        rows = sum(lengths) if "table" not in launch or launch["table"] == "offsets.blocks" else sum(targets)
        if launch.get("over") == "target_rows":
            rows = sum(targets)
        flop = 0
        if launch["computes"] == "attention" and rows == sum(lengths):
            flop = 4 * pairs * inner
        elif "linear" in launch["computes"]:
            outputs = launch["computes"].count("linear")
            flop = 2 * rows * (width * width * outputs if "multiply" not in launch["computes"] else 3 * inner * width)
        rate = flop / took / 1e12
        print(f"    {launch['symbol'][:40]:40} {blocks:5} x {columns} blocks {took * 1e6:9.1f} us {rate:7.1f} TFLOP/s {100 * rate / peak:5.1f} %"
              f"  {launch['computes'][:60]}")
    return total


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("ptx", nargs="+", help="name.ptx beside its name.json")
    parser.add_argument("--weights", required=True)
    parser.add_argument("--lengths", default="1024,4096,16384")
    parser.add_argument("--only-check", action="store_true")
    arguments = parser.parse_args()
    print(torch.cuda.get_device_name(), torch.__version__)
    driver = Driver()
    torch.zeros(1).cuda()
    weights = read_weights(arguments.weights)
    fine = True
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    peak = 2 * 8192**3 / seconds(lambda: a @ b) / 1e12
    print(f"torch matmul 8192: {peak:.0f} TFLOP/s bf16")
    for path in arguments.ptx:
        print(path)
        description = json.load(open(path.replace(".ptx", ".json")))
        if not isinstance(description["layer"]["divisor"], (int, float)):
            raise SystemExit("a fixed divisor is needed")
        program = Program(open(path).read(), weights, driver)
        for lengths, targets in [([200], [20]), ([1, 130, 64, 1000, 2], [1, 3, 0, 100, 0]), ([513, 2048], [40, 128]), ([300, 6001, 4200], [10, 200, 64])]:
            try:
                fine &= check(program, weights, description, lengths, targets, len(lengths))
            except Exception as error:
                print("  FAILED", error)
                fine = False
                raise
        fine &= check_alone(program, description, [4500, 1, 700, 9000, 1100], [130, 0, 20, 64, 128])
        if not arguments.only_check:
            for length in map(int, arguments.lengths.split(",")):
                timings(program, description, [length], [min(128, length // 8)], peak)
    print("ok" if fine else "WRONG")
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
