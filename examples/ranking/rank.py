#!/usr/bin/env python3
"""Makes a small whole ranking model with seeded random weights, compiles it, and ranks candidates of two users.

usage: rank.py --ultrac PATH [--folder FOLDER]

The model has the parts of GR's DlrmHSTU: items and categories, actions as bits, contextual rows, positions and times, two layers, and three
tasks. Its weights are random, so scores mean nothing; a trained checkpoint under the same names takes their place. The folder (a
temporary one unless given) keeps model.json, weights.safetensors and the compiled file. Needs numpy alone.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy

EXAMPLES = pathlib.Path(__file__).resolve().parent.parent
sys.path += [str(EXAMPLES / "python"), str(EXAMPLES / "published")]
from make_model import seeded, write_safetensors  # noqa: E402
from ultra import Model  # noqa: E402

WIDTH, HEADS, HEAD, LAYERS = 32, 2, 16, 2
TABLES = {"item": (500, 24), "category": (20, 24), "user": (100, 16), "tag": (30, 16)}
BITS = [1, 2, 4, 8]
HIDDEN, TASKS = 48, [("click", "binary"), ("like", "binary"), ("minutes", "regression")]
SLOTS = 3


def describe():
    norm = {"kind": "layer_norm", "affine": True, "epsilon": 1e-6}
    mlp = {"hidden": HIDDEN, "epsilon": 1e-5}
    return {
        "format": "ultrac-model/1",
        "name": "ranking-small",
        "weights": ["weights.safetensors"],
        "width": WIDTH,
        "names": {"preset": "gr-production"},
        "sequence": {"targets": True},
        "input": {
            "kind": "events",
            "tables": {
                name: {"rows": rows, "width": width, "out_of_range": "modulo"}
                for name, (rows, width) in TABLES.items()
            },
            "features": {"item_ids": "item", "category_ids": "category"},
            "content": {"features": ["item_ids"], "mlp": mlp},
            "additional": {"features": ["category_ids"], "mlp": mlp},
            "action": {"bits": BITS, "width": 8, "targets": "learned", "mlp": mlp},
            "combine": "sum",
            "contextual": [
                {"feature": "user_ids", "table": "user", "slots": 1},
                {"feature": "tag_ids", "table": "tag", "slots": 2, "minimum_events": 10},
            ],
            "scale": "sqrt(width)",
            "position": {"rows": 64, "order": "descending"},
            "time": {"rows": 97, "scale": "square_root", "unit": 60},
        },
        "layer_count": LAYERS,
        "layer": {
            "heads": HEADS, "attention_dim": HEAD, "hidden_dim": HEAD, "alpha": "1/sqrt(attention_dim)", "divisor": 64,
            "activations": {"u": "silu", "v": "none", "q": "none", "k": "none"},
            "input_norm": norm, "uvqk": {"bias": True}, "mask": {"form": "causal", "contextual": 0},
            "output_norm": norm, "concatenate": ["u", "attention", "gated"], "output": {"bias": False},
        },
        "output": {
            "rows": "targets",
            "norm": {
                "kind": "timestamp_layer_norm", "epsilon": 1e-5, "pi": 3.14,
                "periods": [{"unit": 3600, "count": 24}, {"unit": 86400, "count": 7}],
            },
            "ranking": {
                "items": {"features": ["item_ids", "category_ids"], "mlp": mlp},
                "mlp": mlp,
                "tasks": [{"name": name, "kind": kind} for name, kind in TASKS],
            },
        },
    }


def tensors():
    """Names and shapes of the weights, as GR's modules have them."""
    for name, shape in TABLES.items():
        yield f"_embedding_collection.embeddings.{name}.weight", shape
    preprocessor = "_hstu_transducer._input_preprocessor."
    item, context = TABLES["item"][1], TABLES["user"][1]
    yield from mlp(preprocessor + "_content_embedding_mlp", item, WIDTH)
    yield from mlp(preprocessor + "_additional_embedding_mlp", item, WIDTH)
    yield preprocessor + "_action_encoder._action_embedding_table", (len(BITS), 8)
    yield preprocessor + "_action_encoder._target_action_embedding_table", (1, len(BITS) * 8)
    yield from mlp(preprocessor + "_action_embedding_mlp", len(BITS) * 8, WIDTH)
    yield preprocessor + "_batched_contextual_linear_weights", (SLOTS, context, WIDTH)
    yield preprocessor + "_batched_contextual_linear_bias", (SLOTS, WIDTH)
    yield "_hstu_transducer._positional_encoder._position_embeddings_weight", (64, WIDTH)
    yield "_hstu_transducer._positional_encoder._timestamp_embeddings_weight", (97, WIDTH)
    inner = HEADS * HEAD
    for i in range(LAYERS):
        layer = f"_hstu_transducer._stu_module._stu_layers.{i}."
        yield layer + "_uvqk_weight", (WIDTH, 4 * inner)
        yield layer + "_uvqk_beta", (4 * inner,)
        yield layer + "_output_weight", (3 * inner, WIDTH)
        for part in ("weight", "bias"):
            yield f"{layer}_input_norm_{part}", (WIDTH,)
            yield f"{layer}_output_norm_{part}", (inner,)
    postprocessor = "_hstu_transducer._output_postprocessor."
    yield postprocessor + "_layer_norm.weight", (WIDTH,)
    yield postprocessor + "_layer_norm.bias", (WIDTH,)
    yield postprocessor + "_time_feature_combiner.weight", (WIDTH, WIDTH + 4)
    yield postprocessor + "_time_feature_combiner.bias", (WIDTH,)
    yield from mlp("_item_embedding_mlp", 2 * item, WIDTH)
    yield from list(mlp("_multitask_module._prediction_module", WIDTH, len(TASKS)))[:-2]


def mlp(name, inner, outer):
    """Linear, x * sigmoid(layer norm(x)), Linear, layer norm."""
    yield f"{name}.0.weight", (HIDDEN, inner)
    yield f"{name}.0.bias", (HIDDEN,)
    yield f"{name}.1.weight", (HIDDEN,)
    yield f"{name}.1.bias", (HIDDEN,)
    yield f"{name}.2.weight", (outer, HIDDEN)
    yield f"{name}.2.bias", (outer,)
    yield f"{name}.3.weight", (outer,)
    yield f"{name}.3.bias", (outer,)


def batch():
    """Two users: one with eight events and three candidates, one who is new, with two."""
    generator = numpy.random.default_rng(2)
    history, candidates = numpy.array([8, 0]), numpy.array([3, 2])
    rows = int((history + candidates).sum())
    now = 1_700_000_000
    return {
        "item_ids": generator.integers(0, 1 << 40, rows),
        "category_ids": generator.integers(0, 20, rows),
        "actions": generator.integers(0, 16, rows),
        "offsets": numpy.cumsum([0, *(history + candidates)]),
        "num_targets": candidates,
        "timestamps": numpy.concatenate([now - numpy.arange(8, 0, -1) * 4000, [now] * 3, [now] * 2]),
        "user_ids": numpy.array([17, 4]), "user_ids_offsets": numpy.array([0, 1, 2]),
        "tag_ids": numpy.array([3, 9, 5]), "tag_ids_offsets": numpy.array([0, 2, 3]),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ultrac", required=True, help="the compiler")
    parser.add_argument("--folder", type=pathlib.Path, help="where the model and the compiled file are kept")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or pathlib.Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        write_safetensors(folder / "weights.safetensors", list(tensors()), seeded)
        (folder / "model.json").write_text(json.dumps(describe(), indent=2) + "\n")
        compiled = folder / "ranking-small.ultra"
        subprocess.run(
            [arguments.ultrac, "compile", str(folder / "model.json"), "-o", str(compiled)], check=True,
            stdout=subprocess.DEVNULL)
        inputs = batch()
        scores = Model(str(compiled)).run(inputs)["scores"]
    print(f"{'user':>4} {'item':>14} " + " ".join(f"{name:>8}" for name, _ in TASKS))
    first = 0
    for user, count in enumerate(inputs["num_targets"]):
        items = inputs["item_ids"][inputs["offsets"][user + 1] - count:inputs["offsets"][user + 1]]
        own = scores[first:first + count]
        first += count
        for place in numpy.argsort(-own[:, 0], kind="stable"):
            print(f"{user:>4} {items[place]:>14} " + " ".join(f"{value:8.4f}" for value in own[place]))


if __name__ == "__main__":
    main()
