"""PyTorch's operators for int4 rows: a lookup, and a bag of one row each."""

import warnings

import torch

from peers import Absent, Prepared
from peers.int4 import BATCH, LookupJob
from peers.pytorch import VERSION


def prepare(job: LookupJob, in_bags: bool) -> Prepared:
    torch.set_num_threads(job.threads)
    torch.inference_mode().__enter__()
    batches = [torch.from_numpy(ids) for ids in job.batches()]
    try:
        lookup = bags(job) if in_bags else rows(job)
        lookup(batches[0])
    except (AttributeError, RuntimeError) as error:
        raise Absent(f"its operator does not work here: {str(error).splitlines()[0]}") from error
    turn = 0

    def run():
        nonlocal turn
        turn = (turn + 1) % len(batches)
        return lookup(batches[turn])

    return Prepared(run, lambda _: lookup(batches[0]).numpy(), VERSION)


def repeated(job: LookupJob, block: torch.Tensor) -> torch.Tensor:
    """The whole table's rows, or a number for each, from those of its first rows."""
    times = -(-job.table_rows // len(block))
    return block.repeat(times, *([1] * (block.dim() - 1)))[: job.table_rows].contiguous()


def bags(job: LookupJob):
    packed = torch.ops.quantized.embedding_bag_4bit_prepack(torch.from_numpy(job.block()).float())
    table, offsets = repeated(job, packed), torch.arange(BATCH)
    return lambda ids: torch.ops.quantized.embedding_bag_4bit_rowwise_offsets(table, ids, offsets)


def rows(job: LookupJob):
    block = torch.from_numpy(job.block()).float()
    observer = torch.ao.quantization.PerChannelMinMaxObserver(
        dtype=torch.quint4x2, qscheme=torch.per_channel_affine_float_qparams, ch_axis=0)
    observer(block)
    scales, zeros = (repeated(job, numbers.float()) for numbers in observer.calculate_qparams())
    with warnings.catch_warnings(action="ignore"):
        quantized = torch.quantize_per_channel(repeated(job, block), scales, zeros, 0, torch.quint4x2)
    packed = torch.ops.quantized.embedding_bag_prepack(quantized)
    return lambda ids: torch.ops.quantized.embedding_4bit(packed, ids)
