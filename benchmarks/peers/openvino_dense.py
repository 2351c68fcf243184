"""OpenVINO on its CPU device, for latency."""

import openvino

from peers import Job, Prepared, dense, onnx_graph


def configuration(threads: int, precision: str) -> dict:
    return {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": str(threads),
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
    }


def prepare(job: Job) -> Prepared:
    dense.refuse_what_is_too_long(job)
    path = job.folder / f"openvino-{job.precision}.onnx"
    onnx_graph.write(job, path)
    core = openvino.Core()
    model = core.compile_model(core.read_model(path), "CPU", configuration(job.threads, job.precision))
    path.unlink()
    request = model.create_infer_request()
    # Bound once: nothing is copied at a run. The tensor does not keep the array.
    x = dense.padded(job)
    request.set_input_tensor(openvino.Tensor(x, shared_memory=True))

    def run(_=x):
        request.infer()
        return request.get_output_tensor().data

    version = openvino.__version__.partition("-")[0]
    return Prepared(run, lambda y: dense.unpadded(job, y.astype("float32")), f"OpenVINO {version}")
