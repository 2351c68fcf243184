"""The stack as an ONNX model, fp32, with all extents fixed."""

import pathlib

import numpy
import onnx
from onnx import TensorProto, helper, numpy_helper

from peers import Job, dense
from stacks import EPSILON

OPSET = 18
# Of the file, which several versions of the readers know.
IR_VERSION = 8


class Graph:
    def __init__(self):
        self.nodes, self.constants = [], []

    def constant(self, name: str, values) -> str:
        self.constants.append(numpy_helper.from_array(numpy.asarray(values), name))
        return name

    def node(self, operation: str, inputs: list[str], count: int = 1, **attributes):
        outputs = [f"v{len(self.nodes)}_{index}" for index in range(count)]
        self.nodes.append(helper.make_node(operation, inputs, outputs, **attributes))
        return outputs[0] if count == 1 else outputs

    def silu(self, x: str) -> str:
        return self.node("Mul", [x, self.node("Sigmoid", [x])])


def write(job: Job, path: pathlib.Path) -> None:
    """Input "x" and output "out": [sequences, longest, width]."""
    stack, batch, rows = job.stack, len(job.case.lengths), max(job.case.lengths)
    graph = Graph()
    mask = graph.constant("mask", dense.mask(job))
    alpha = graph.constant("alpha", numpy.float32(stack.alpha))
    split = graph.constant("split", numpy.array([batch, rows, stack.heads, stack.head]))
    joined = graph.constant("joined", numpy.array([batch, rows, stack.inner]))
    x = "x"
    for index, weights in enumerate(stack.layer_weights()):
        w = {name: graph.constant(f"{index}.{name}", values) for name, values in weights.items()}
        n = graph.node(
            "LayerNormalization", [x, w["input_norm_weight"], w["input_norm_bias"]], axis=-1, epsilon=EPSILON)
        product = graph.node("Add", [graph.node("MatMul", [n, w["uvqk_weight"]]), w["uvqk_beta"]])
        u, v, q, k = graph.node("Split", [graph.silu(product)], 4, axis=2, num_outputs=4)
        q = graph.node("Mul", [q, alpha])
        q, v = (graph.node("Transpose", [graph.node("Reshape", [t, split])], perm=[0, 2, 1, 3]) for t in (q, v))
        k = graph.node("Transpose", [graph.node("Reshape", [k, split])], perm=[0, 2, 3, 1])
        scores = graph.node("Mul", [graph.silu(graph.node("MatMul", [q, k])), mask])
        a = graph.node("Transpose", [graph.node("MatMul", [scores, v])], perm=[0, 2, 1, 3])
        a = graph.node("Reshape", [a, joined])
        a = graph.node(
            "LayerNormalization", [a, w["output_norm_weight"], w["output_norm_bias"]], axis=-1, epsilon=EPSILON)
        x = graph.node("Add", [x, graph.node("MatMul", [graph.node("Mul", [u, a]), w["output_weight"]])])
    graph.nodes.append(helper.make_node("Identity", [x], ["out"]))
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, rows, stack.width]) for name in ("x", "out")]
    model = helper.make_model(
        helper.make_graph(graph.nodes, "stack", ports[:1], ports[1:], graph.constants),
        opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.save(model, path)
