"""One process from its start to its first result: `starts.py WHAT FOLDER`. Prints the first number of the result.

Each imports what it needs and no more; what can be done ahead of time was (startup.py).
"""

import pathlib
import sys


def numpy_alone(folder: pathlib.Path) -> float:
    import numpy

    return float(numpy.load(folder / "expected.npy").flat[0])


def ultrac(folder: pathlib.Path) -> float:
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "examples" / "python"))
    import numpy
    from ultra import Model

    x = numpy.load(folder / "x.npy")
    return float(Model(folder / "start.ultra").run({"x": x, "offsets": numpy.array([0, len(x)])})["out"].flat[0])


def onnxruntime(folder: pathlib.Path) -> float:
    import numpy
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    # It was optimized ahead of time.
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(folder / "optimized.onnx", settings, providers=["CPUExecutionProvider"])
    return float(session.run(None, {"x": numpy.load(folder / "x.npy")[None]})[0].flat[0])


def openvino(folder: pathlib.Path) -> float:
    import numpy
    import openvino

    core = openvino.Core()
    core.set_property({"CACHE_DIR": str(folder / "openvino")})
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": "1", "INFERENCE_PRECISION_HINT": "f32"}
    model = core.compile_model(folder / "start.onnx", "CPU", settings)
    return float(model(numpy.load(folder / "x.npy")[None])[0].flat[0])


def main() -> None:
    what = {f.__name__: f for f in (numpy_alone, ultrac, onnxruntime, openvino)}[sys.argv[1]]
    print(f"{what(pathlib.Path(sys.argv[2])):.9g}", flush=True)


if __name__ == "__main__":
    main()
