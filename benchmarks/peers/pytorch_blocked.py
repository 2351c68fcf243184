"""The stack as an expert would write it in PyTorch for CPUs: packed rows, and attention by blocks of query rows, which
meet only the keys that they can see. Memory grows with the rows, not with their square."""

import numpy
import torch

from peers import Absent, Job, Prepared, pytorch
from stacks import DIVISOR

BLOCK = 256


class Block:
    """Query rows first..<end of one sequence, the ranges of its keys that they see, and which of those."""

    def __init__(self, job: Job, sequence: slice, first: int):
        self.first, self.end = first, min(first + BLOCK, sequence.stop - sequence.start)
        self.ranges = job.stack.key_ranges(self.first, self.end)
        keys = numpy.concatenate([numpy.arange(*r) for r in self.ranges])
        seen = job.stack.visible(numpy.arange(self.first, self.end), keys)
        # Keys that all rows see need no mask.
        self.masked_from = int(numpy.argmin(seen.all(axis=0)))
        self.mask = torch.from_numpy(seen[:, self.masked_from :].copy()).to(pytorch.dtype(job))


class Stack(torch.nn.Module):
    def __init__(self, job: Job, is_compiled: bool):
        super().__init__()
        self.layers = [pytorch.Layer(job, weights) for weights in job.stack.layer_weights()]
        self.heads, self.head = job.stack.heads, job.stack.head
        self.sequences = []
        first = 0
        for length in job.case.lengths:
            sequence = slice(first, first + length)
            self.sequences.append((sequence, [Block(job, sequence, row) for row in range(0, length, BLOCK)]))
            first += length
        self.layer = torch.compile(self.one_layer, dynamic=False) if is_compiled else self.one_layer

    def attention(self, q, k, v):
        # Heads first; the divisor on v is a factor less on every score.
        q, k, v = (t.view(-1, self.heads, self.head).transpose(0, 1) for t in (q, k, v * (1 / DIVISOR)))
        results = []
        for sequence, blocks in self.sequences:
            rows, keys, values = q[:, sequence], k[:, sequence], v[:, sequence]
            for block in blocks:
                seen = [torch.cat([t[:, b:e] for b, e in block.ranges], 1) if len(block.ranges) > 1 else
                        t[:, block.ranges[0][0] : block.ranges[0][1]] for t in (keys, values)]
                scores = torch.bmm(rows[:, block.first : block.end], seen[0].transpose(1, 2))
                scores = torch.nn.functional.silu(scores, inplace=True)
                scores[:, :, block.masked_from :].mul_(block.mask)
                results.append(torch.bmm(scores, seen[1]))
        return torch.cat(results, 1).transpose(0, 1).reshape(-1, self.heads * self.head)

    def one_layer(self, x, layer):
        return layer(x, self.attention)

    def forward(self, x):
        for layer in self.layers:
            x = self.layer(x, layer)
        return x


def prepare(job: Job, is_compiled: bool) -> Prepared:
    pytorch.set_up(job)
    stack = Stack(job, is_compiled).eval()
    x = torch.from_numpy(job.case.inputs()).to(pytorch.dtype(job))
    try:
        stack(x)
    except Exception as error:  # whatever the compiler's compiler says
        if not is_compiled:
            raise
        raise Absent(f"torch.compile failed: {str(error).strip().splitlines()[0]}") from error
    return Prepared(lambda: stack(x), lambda y: y.float().numpy(), pytorch.VERSION)
