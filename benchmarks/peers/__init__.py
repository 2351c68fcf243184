"""Everything that runs the same stack: one module each, which prepares a job and gives back how to run it.

A module has `prepare(job) -> Prepared`, with further arguments where several peers share it. It raises Absent where the
peer is not there, or cannot do this job.
"""

import dataclasses
import importlib
import pathlib
from collections.abc import Callable

import numpy

from stacks import Case, Stack

# More than this for one copy of the scores of all heads is out of reach of a peer that keeps them all.
LARGEST_SCORES = 2 << 30


class Absent(Exception):
    """This peer cannot take part; the message says why, for the page."""


@dataclasses.dataclass(frozen=True)
class Job:
    case: Case
    # "fp32" or "bf16".
    precision: str
    threads: int
    # Holds what is made for the case: model.json, weights, compiled models.
    folder: pathlib.Path
    # The compiler to use.
    ultrac: str

    @property
    def stack(self) -> Stack:
        return self.case.stack

    @property
    def is_bf16(self) -> bool:
        return self.precision == "bf16"


@dataclasses.dataclass
class Prepared:
    # One forward, complete when it returns.
    run: Callable[[], object]
    # What `run` gave, as fp32 rows of all sequences one after the other.
    rows: Callable[[object], numpy.ndarray]
    # Name and version.
    version: str


@dataclasses.dataclass(frozen=True)
class Peer:
    key: str
    title: str
    module: str
    arguments: tuple = ()

    def prepare(self, job: Job) -> Prepared:
        try:
            module = importlib.import_module(f"peers.{self.module}")
        except ImportError as error:
            raise Absent(f"not installed ({error})") from error
        return module.prepare(job, *self.arguments)


OURS = "ultrac"
PEERS = [
    Peer(OURS, "ultrac", "compiled"),
    Peer("eager", "PyTorch eager", "pytorch_dense", (False,)),
    Peer("compile", "torch.compile", "pytorch_dense", (True,)),
    Peer("blocked", "blocked", "pytorch_blocked", (False,)),
    Peer("blocked-compile", "blocked, compiled", "pytorch_blocked", (True,)),
    Peer("onnxruntime", "ONNX Runtime", "onnxruntime_dense"),
    Peer("openvino", "OpenVINO", "openvino_dense"),
    Peer("jax", "JAX", "jax_dense"),
]
