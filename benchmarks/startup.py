"""From the start of a process to its first result, in turns; and the table of that."""

import dataclasses
import importlib.metadata
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy

from page import digits, table
from peers import Absent, Job
from peers.compiled import ROOT, compile_model
from reference import expected
from rounds import PAUSE_SECONDS, Result, environment, keep_to
from stacks import Case, Stack

NAME = "process start to first result"
CASE = Case(Stack(2, 64, 2, 32), (64,))
HERE = pathlib.Path(__file__).resolve().parent
TOLERANCE = 1e-5
TURNS, QUICK_TURNS = 20, 3
# Key, title.
STARTS = [
    ("c", "ultrac, from C"),
    ("ultrac", "ultrac, from Python"),
    ("numpy_alone", "Python and numpy alone"),
    ("onnxruntime", "ONNX Runtime, from Python"),
    ("openvino", "OpenVINO, from Python"),
]


@dataclasses.dataclass
class Starts:
    case: str
    results: list[Result]


def compare(options, tell) -> list[Starts]:
    if options.only not in NAME:
        return []
    chosen = options.peers or [key for key, _ in STARTS]
    starts = [(key, title) for key, title in STARTS if key in chosen or (key in ("c", "numpy_alone") and "ultrac" in chosen)]
    with tempfile.TemporaryDirectory(prefix="ultrac-bench-") as name:
        folder = pathlib.Path(name)
        wanted = _prepare(folder, options)
        results = {}
        for key, title in starts:
            tell(f"{NAME}: {title}")
            results[key] = Result(key, title)
            try:
                PREPARE.get(key, lambda folder: None)(folder)
                # The first one also fills caches, of files and of what the peer keeps from start to start.
                _start(key, folder, wanted)
            except (Absent, ImportError) as error:
                results[key].absent = f"not installed ({error})"
        for turn in range(QUICK_TURNS if options.quick else TURNS):
            for key, title in starts:
                if results[key].absent is None:
                    tell(f"{NAME}: {title}, turn {turn + 1}")
                    time.sleep(PAUSE_SECONDS / 3)
                    results[key].rounds.append(_start(key, folder, wanted))
    return [Starts(CASE.name, list(results.values()))]


def _prepare(folder: pathlib.Path, options) -> float:
    """Writes what processes read; gives the first number of their result."""
    compile_model(options.ultrac, CASE.stack.write(folder), folder / "start.ultra")
    x = CASE.inputs()
    numpy.save(folder / "x.npy", x)
    x.tofile(folder / "x.f32")
    numpy.array([0, CASE.rows]).tofile(folder / "offsets.i64")
    result = expected(CASE, x)
    numpy.save(folder / "expected.npy", result)
    command = ["cc", "-O2", "-std=c11", f"-I{ROOT / 'include'}", "-o", folder / "call_once", HERE / "call_once.c", "-ldl"]
    subprocess.run(command, check=True)
    return float(result.flat[0])


def _write_onnx(folder: pathlib.Path) -> pathlib.Path:
    from peers import onnx_graph

    path = folder / "start.onnx"
    onnx_graph.write(Job(CASE, "fp32", 1, folder, ""), path)
    return path


def _optimize(folder: pathlib.Path) -> None:
    """Optimizes the graph ahead of time, as ONNX Runtime allows."""
    from peers import onnxruntime_dense

    settings = onnxruntime_dense.options(1)
    settings.optimized_model_filepath = str(folder / "optimized.onnx")
    onnxruntime_dense.onnxruntime.InferenceSession(_write_onnx(folder), settings, providers=["CPUExecutionProvider"])


def _check_openvino(folder: pathlib.Path) -> None:
    importlib.metadata.version("openvino")
    _write_onnx(folder)


# What can be done before a process starts.
PREPARE = {"onnxruntime": _optimize, "openvino": _check_openvino}


def _start(key: str, folder: pathlib.Path, wanted: float) -> float:
    """Seconds until a new process has printed its first result."""
    if key == "c":
        room = str(CASE.rows * CASE.stack.width)
        inputs = [folder / "x.f32", folder / "offsets.i64"]
        command = [folder / "call_once", folder / "start.ultra", str(CASE.rows), "1", room, *inputs]
    else:
        command = [sys.executable, HERE / "starts.py", key, folder]
    begin = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(1), preexec_fn=keep_to(1)
    ) as process:
        line = process.stdout.readline()
        elapsed = time.perf_counter() - begin
        if process.wait() != 0 or not line:
            raise RuntimeError(f"{key}: {process.stderr.read().decode().strip()}")
    got = float(line.split()[-1])
    if not abs(got - wanted) <= TOLERANCE:
        raise RuntimeError(f"{key}: the first number is {got}, not {wanted}")
    return elapsed


def lines(starts: list[Starts]) -> list[str]:
    result = []
    for entry in starts:
        result += [
            "### From the start of a process to its first result", "",
            f"{entry.case}, fp32, one thread, milliseconds. The peers' models were optimized or cached ahead of time.", "",
        ]
        rows = []
        for r in entry.results:
            times = [time * 1e3 for time in r.rounds]
            cells = [digits(value) for value in (min(times), statistics.median(times), max(times))] if times else ["-"] * 3
            rows.append([r.title, *cells])
        result += table(["", "least", "median", "most"], rows)
        reasons = [f"- {r.title}: {r.absent}" for r in entry.results if r.absent]
        result += ["", *reasons, *([""] if reasons else [])]
    return result
