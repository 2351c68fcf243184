"""ONNX Runtime on its CPU provider, with every optimization of graphs."""

import onnxruntime

from peers import Absent, Job, Prepared, dense, onnx_graph


def options(threads: int) -> onnxruntime.SessionOptions:
    result = onnxruntime.SessionOptions()
    result.intra_op_num_threads = threads
    result.inter_op_num_threads = 1
    result.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    result.log_severity_level = 3
    return result


def prepare(job: Job) -> Prepared:
    if job.is_bf16:
        raise Absent("its CPU provider has no bf16 products on x86-64")
    dense.refuse_what_is_too_long(job)
    path = job.folder / "onnxruntime.onnx"
    onnx_graph.write(job, path)
    session = onnxruntime.InferenceSession(path, options(job.threads), providers=["CPUExecutionProvider"])
    path.unlink()
    inputs = {"x": dense.padded(job)}
    return Prepared(
        lambda: session.run(None, inputs)[0], lambda y: dense.unpadded(job, y),
        f"ONNX Runtime {onnxruntime.__version__}")
