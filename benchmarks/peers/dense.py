"""What peers share that keep the scores of all rows and keys: batches are padded to the longest sequence."""

import numpy

from peers import LARGEST_SCORES, Absent, Job
from stacks import DIVISOR


def refuse_what_is_too_long(job: Job) -> None:
    longest = max(job.case.lengths)
    size = len(job.case.lengths) * job.stack.heads * longest**2 * (2 if job.is_bf16 else 4)
    if size > LARGEST_SCORES:
        raise Absent(f"out of reach: {size / 1e9:.1f} GB for each copy of the scores")


def padded(job: Job) -> numpy.ndarray:
    """The inputs [sequences, longest, width], zeros after each sequence."""
    lengths, rows = job.case.lengths, job.case.inputs()
    result = numpy.zeros((len(lengths), max(lengths), job.stack.width), numpy.float32)
    first = 0
    for index, length in enumerate(lengths):
        result[index, :length] = rows[first : first + length]
        first += length
    return result


def unpadded(job: Job, result: numpy.ndarray) -> numpy.ndarray:
    return numpy.concatenate([result[index, :length] for index, length in enumerate(job.case.lengths)])


def mask(job: Job) -> numpy.ndarray:
    """[longest, longest]: what activated scores are multiplied by. Rows of padding follow those of their sequence, which
    therefore see none of them."""
    rows = numpy.arange(max(job.case.lengths))
    return job.stack.visible(rows, rows).astype(numpy.float32) / DIVISOR
