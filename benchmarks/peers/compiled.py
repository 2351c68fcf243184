"""Ours: compiled for this machine, called through the ABI as any server does, with the pool that lies beside ultra.h."""

import ctypes
import pathlib
import subprocess
import sys

import numpy

from peers import Job, Prepared

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "examples" / "python"))
from ultra import Model  # noqa: E402

# What `--rewrite` makes of a stack in each precision.
REWRITES = {"fp32": "", "bf16": "lower-precision{matmul=bf16,attention=bf16}"}


def compile_model(ultrac: str, description: pathlib.Path, artifact: pathlib.Path, rewrite: str = "") -> None:
    """For this machine, after the passes of `rewrite`."""
    command = [ultrac, "compile", description, "-o", artifact, "--target-cpu", "native"]
    done = subprocess.run(command + (["--rewrite", rewrite] if rewrite else []), capture_output=True, text=True)
    if done.returncode == 0:
        return
    message = done.stderr.strip() or done.stdout.strip()
    raise RuntimeError(f"{' '.join(map(str, command))}: {message}")


class Pool:
    """include/ultra_pool.h's threads."""

    def __init__(self, folder: pathlib.Path, threads: int):
        library = folder / "libultra_pool.so"
        if not library.exists():
            sources = [ROOT / "include" / name for name in ("ultra_pool.c", "ultra_cpus.c")]
            command = ["cc", "-O2", "-std=c11", "-shared", "-fPIC", "-pthread", "-o", library, *sources]
            subprocess.run(command, check=True)
        self._library = ctypes.CDLL(str(library))
        self._library.ultra_pool_create.restype = ctypes.c_void_p
        self._library.ultra_pool_parallel.restype = ctypes.c_void_p
        self._library.ultra_pool_parallel.argtypes = [ctypes.c_void_p]
        for name in ("ultra_pool_begin", "ultra_pool_end"):
            getattr(self._library, name).argtypes = [ctypes.c_void_p]
            getattr(self._library, name).restype = None
        self.threads = threads
        self._pool = self._library.ultra_pool_create(threads)
        if not self._pool:
            raise RuntimeError(f"a pool of {threads} threads cannot be had")
        # For a call's field of this name.
        self.parallel = self._library.ultra_pool_parallel(self._pool)

    def __enter__(self):
        self._library.ultra_pool_begin(self._pool)

    def __exit__(self, *_):
        self._library.ultra_pool_end(self._pool)


def prepare(job: Job) -> Prepared:
    artifact = job.folder / f"{job.precision}.ultra"
    compile_model(job.ultrac, job.folder / "model.json", artifact, REWRITES[job.precision])
    offsets = numpy.cumsum([0, *job.case.lengths], dtype=numpy.int64)
    model = Model(artifact)
    pool = Pool(job.folder, job.threads)
    call = model.bind({"x": job.case.inputs(), "offsets": offsets}, parallel=pool.parallel, workers=pool.threads)

    def run():
        with pool:
            call.run()
        return call

    return Prepared(run, lambda call: call.results()["out"], f"ultrac ({model.level})")
