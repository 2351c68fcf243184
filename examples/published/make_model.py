#!/usr/bin/env python3
"""Writes models of published shapes, with seeded random weights: what to compile and measure when no trained one is at hand.

    examples/published/make_model.py                    lists the shapes
    examples/published/make_model.py hstu-ultra-semi-local /tmp/model
    ultrac compile /tmp/model/model.json

The ultra-prefix ones are the paper's with semi-local attention as a key prefix, which targets see the same way: what they read of a
history is bounded, however long it is. Sources: the configurations of meta-recsys/generative-recommenders (hstu-ultra*), arXiv 2602.16986 (paper-*), the example of
alibaba/TorchEasyRec (ter-example), MLPerf DLRMv3 (dlrm-v3) and NVIDIA/recsys-examples (kuairand-1k). Needs numpy alone.
"""

import argparse
import json
import math
import pathlib
import struct
import sys

import numpy

CAUSAL = {"form": "causal"}


def semi_local(tail):
    return {"form": "windowed", "window": 256, "full_tail": tail}


def key_prefix(prefix):
    return {"form": "key_prefix", "local": 256, "global": prefix, "targets": "windowed"}


# Name: layers, width, heads, width of a head, mask, longest sequence, targets, and what else differs.
SHAPES = {
    "hstu-ultra-semi-local": dict(layers=8, mask=semi_local(256), length=16384, targets=True, alpha="1/attention_dim"),
    "hstu-ultra": dict(layers=12, mask=CAUSAL, length=1536, targets=True, alpha="1/attention_dim"),
    "paper-hstu-3072x6": dict(layers=6, mask=CAUSAL, length=3072),
    "paper-hstu-8192x11": dict(layers=11, mask=CAUSAL, length=8192),
    "paper-hstu-16384x10": dict(layers=10, mask=CAUSAL, length=16384),
    "paper-ultra-3072x14": dict(layers=14, mask=semi_local(256), length=3072),
    "paper-ultra-8192x18": dict(layers=18, mask=semi_local(256), length=8192),
    "paper-ultra-16384x18": dict(layers=18, mask=semi_local(256), length=16384),
    "ter-example": dict(
        layers=4, mask={"form": "key_prefix", "local": 256, "global": 32}, length=8192, targets=True,
        truncation=[{"form": "drop", "after": 2, "keep": 512}]),
    "ultra-prefix-16384x18": dict(layers=18, mask=key_prefix(256), length=16384, targets=True),
    "ultra-prefix-16384x4": dict(layers=4, mask=key_prefix(256), length=16384, targets=True),
    "dlrm-v3": dict(layers=5, mask=CAUSAL, length=16384, targets=True, contextual=1),
    "kuairand-1k": dict(layers=3, mask=CAUSAL, length=4096, targets=True, silu_on_all=True),
}


def describe(name, layers, mask, length, width=512, heads=4, head=128, targets=False, contextual=0,
             alpha="1/sqrt(attention_dim)", truncation=None, silu_on_all=False):
    norm = {"kind": "layer_norm", "affine": True, "epsilon": 1e-5 if silu_on_all else 1e-6}
    other = "silu" if silu_on_all else "none"
    model = {
        "format": "ultrac-model/1",
        "name": name,
        "weights": ["weights.safetensors"],
        "width": width,
        "names": {"preset": "gr-production"},
        "sequence": {"targets": targets, "contextual": contextual},
        "input": {"kind": "rows"},
        "layer_count": layers,
        "layer": {
            "heads": heads, "attention_dim": head, "hidden_dim": head, "alpha": alpha, "divisor": length,
            "activations": {"u": "silu", "v": other, "q": other, "k": other},
            "input_norm": norm, "uvqk": {"bias": True}, "mask": mask, "output_norm": norm,
            "concatenate": ["gated"] if silu_on_all else ["u", "attention", "gated"], "output": {"bias": False},
        },
        "output": {"rows": "targets" if targets else "last", "norm": {"kind": "l2", "epsilon": 1e-6}},
    }
    if truncation:
        model["truncation"] = truncation
    return model


def tensors(model):
    """Names and shapes of the weights, in the order of the file."""
    layer, width = model["layer"], model["width"]
    inner = layer["heads"] * layer["hidden_dim"]
    for i in range(model["layer_count"]):
        shapes = {
            "_input_norm_weight": (width,), "_input_norm_bias": (width,), "_uvqk_weight": (width, 4 * inner),
            "_uvqk_beta": (4 * inner,), "_output_norm_weight": (inner,), "_output_norm_bias": (inner,),
            "_output_weight": (len(layer["concatenate"]) * inner, width),
        }
        for name, shape in shapes.items():
            yield f"_hstu_transducer._stu_module._stu_layers.{i}.{name}", shape


def seeded_values(named_shapes):
    """Names and seeded fp32 values: products keep a row's size, norms are near one."""
    generator = numpy.random.default_rng(1)
    for name, shape in named_shapes:
        spread = shape[0] ** -0.5 if len(shape) == 2 else 0.1
        center = 1.0 if name.endswith("norm_weight") else 0.0
        values = (generator.standard_normal(shape, numpy.float32) * numpy.float32(spread)) + numpy.float32(center)
        yield name, values


def seeded(file, named_shapes):
    for _, values in seeded_values(named_shapes):
        file.write(values.tobytes())


def empty(file, named_shapes):
    """Zeros that take no room on the disk: for what looks at shapes alone."""
    file.truncate(file.tell() + 4 * sum(math.prod(shape) for _, shape in named_shapes))


def write_safetensors(path, named_shapes, fill, dtype="F32"):
    """Writes tensors of one type, F32 or F16, their values by `fill`."""
    header, offset = {}, 0
    for name, shape in named_shapes:
        end = offset + {"F32": 4, "F16": 2}[dtype] * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        fill(file, named_shapes)


def write_model(folder, model, fill=seeded):
    """Writes model.json and weights.safetensors, the values of the weights by `fill`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_safetensors(folder / "weights.safetensors", list(tensors(model)), fill)
    (folder / "model.json").write_text(json.dumps(model, indent=2) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", nargs="?", choices=SHAPES)
    parser.add_argument("folder", nargs="?", type=pathlib.Path, help="where model.json and weights.safetensors go")
    arguments = parser.parse_args()
    if arguments.shape is None:
        for name, shape in SHAPES.items():
            print(f"{name:<24}{shape['layers']:>3} layers, up to {shape['length']:>5} rows")
        return
    if arguments.folder is None:
        sys.exit("give a folder to write to")
    write_model(arguments.folder, describe(arguments.shape, **SHAPES[arguments.shape]))


if __name__ == "__main__":
    main()
