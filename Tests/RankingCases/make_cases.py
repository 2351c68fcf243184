#!/usr/bin/env python3
"""Computes whole ranking models in NumPy, in float64, and writes them as golden cases (Tests/Golden/README.md has the format).

usage: make_cases.py [FOLDER]      the folder of this file unless given

The cases of Tests/Golden come from the reference's own modules; these have what those leave out: no contextual rows, logarithmic time
buckets, the L2 norm, group norms, masks with contextual rows, windows. Everything here is written from the model's
definition, apart from the compiler, and is seeded: the same files every time. Needs numpy alone.
"""

import json
import pathlib
import struct
import sys

import numpy

PREPROCESSOR = "_hstu_transducer._input_preprocessor."
POSITIONS = "_hstu_transducer._positional_encoder."
POSTPROCESSOR = "_hstu_transducer._output_postprocessor."
PERIODS = [(3600, 24), (86400, 7)]


def sigmoid(x):
    return 1 / (1 + numpy.exp(-x))


def layer_norm(x, weight, bias, epsilon):
    deviation = numpy.sqrt(x.var(-1, keepdims=True) + epsilon)
    return (x - x.mean(-1, keepdims=True)) / deviation * weight + bias


def cut(lengths):
    return numpy.cumsum([0, *lengths])


class Model:
    """One case: settings, seeded weights, a seeded batch, and every stage."""

    def __init__(self, seed, **settings):
        self.random = numpy.random.default_rng(seed)
        self.weights = {}
        self.__dict__.update(settings)
        self.slots = sum(self.contextual.values())
        self.divisor = max(self.history) + max(self.candidates) + self.slots
        self.features = ["item", *self.additional]
        self.tables = {
            name: (30 + 7 * index, self.table_width)
            for index, name in enumerate(dict.fromkeys([*self.features, *self.item_features, *self.contextual]))
        }

    def weight(self, name):
        return self.weights[name].astype(numpy.float64)

    def add(self, name, *shape, center=0.0, spread=None):
        spread = spread or (shape[0] ** -0.5 if len(shape) == 2 else 0.3)
        self.weights[name] = (center + self.random.standard_normal(shape) * spread).astype(numpy.float32)

    def add_mlp(self, name, inner, hidden, outer, is_normed=True):
        for part, shape, center in [
            ("0.weight", (hidden, inner), 0), ("0.bias", (hidden,), 0), ("1.weight", (hidden,), 1),
            ("1.bias", (hidden,), 0), ("2.weight", (outer, hidden), 0), ("2.bias", (outer,), 0),
            ("3.weight", (outer,), 1), ("3.bias", (outer,), 0),
        ][:8 if is_normed else 6]:
            self.add(f"{name}.{part}", *shape, center=center, spread=shape[-1] ** -0.5 if len(shape) == 2 else None)

    def mlp(self, name, x, is_normed=True):
        def part(number, kind):
            return self.weight(f"{name}.{number}.{kind}")

        x = x @ part(0, "weight").T + part(0, "bias")
        x = x * sigmoid(layer_norm(x, part(1, "weight"), part(1, "bias"), 1e-5))
        x = x @ part(2, "weight").T + part(2, "bias")
        return layer_norm(x, part(3, "weight"), part(3, "bias"), 1e-5) if is_normed else x

    def add_weights(self):
        width, table, bits = self.width, self.table_width, len(self.bits)
        for name, shape in self.tables.items():
            self.add(f"_embedding_collection.embeddings.{name}.weight", *shape, spread=0.7)
        self.add_mlp(PREPROCESSOR + "_content_embedding_mlp", table, self.hidden, width)
        if self.additional:
            inner = table * len(self.additional)
            self.add_mlp(PREPROCESSOR + "_additional_embedding_mlp", inner, self.hidden, width)
        encoder = PREPROCESSOR + "_action_encoder."
        self.weights[encoder + "_combined_action_weights"] = numpy.array(self.bits, numpy.int64)
        self.add(encoder + "_action_embedding_table", bits, 8)
        self.add(encoder + "_target_action_embedding_table", 1, bits * 8)
        self.add_mlp(PREPROCESSOR + "_action_embedding_mlp", bits * 8, self.hidden, width)
        if self.slots:
            spread = table ** -0.5
            self.add(PREPROCESSOR + "_batched_contextual_linear_weights", self.slots, table, width, spread=spread)
            self.add(PREPROCESSOR + "_batched_contextual_linear_bias", self.slots, width)
        self.add(POSITIONS + "_position_embeddings_weight", self.positions, width, spread=0.5)
        self.add(POSITIONS + "_timestamp_embeddings_weight", self.time_buckets + 1, width, spread=0.5)
        for index in range(2):
            layer = f"_hstu_transducer._stu_module._stu_layers.{index}."
            columns, inner = 2 * self.heads * (self.query + self.value), self.heads * self.value
            norm = self.heads if self.group_norm else inner
            self.add(layer + "_uvqk_weight", width, columns)
            self.add(layer + "_uvqk_beta", columns)
            self.add(layer + "_input_norm_weight", width, center=1)
            self.add(layer + "_input_norm_bias", width)
            self.add(layer + "_output_weight", 3 * inner, width)
            self.add(layer + "_output_norm_weight", norm, center=1)
            self.add(layer + "_output_norm_bias", norm)
        if self.norm != "l2":
            self.add(POSTPROCESSOR + "_layer_norm.weight", width, center=1)
            self.add(POSTPROCESSOR + "_layer_norm.bias", width)
        if self.norm == "timestamp_layer_norm":
            self.add(POSTPROCESSOR + "_time_feature_combiner.weight", width, width + 4)
            self.add(POSTPROCESSOR + "_time_feature_combiner.bias", width)
        self.add_mlp("_item_embedding_mlp", table * len(self.item_features), 31, width)
        self.add_mlp("_multitask_module._prediction_module", width, 19, len(self.tasks), is_normed=False)

    def add_batch(self):
        def ids(name, count):
            return self.random.integers(0, self.tables[name][0], count)

        events, requests = sum(self.history), sum(self.candidates)
        self.ids = {"uih_" + name: ids(name, events) for name in self.features}
        self.ids |= {"cand_" + name: ids(name, requests) for name in dict.fromkeys(self.features + self.item_features)}
        self.counts = {
            name: [int(self.random.integers(0, slots + 2)) for _ in self.history]
            for name, slots in self.contextual.items()
        }
        self.ids |= {name: ids(name, sum(counts)) for name, counts in self.counts.items()}
        self.event_times = 1_700_000_000 - numpy.sort(self.random.integers(0, 3_000_000, events))[::-1]
        self.request_times = numpy.repeat(
            1_700_000_000 + self.random.integers(0, 500_000, len(self.history)), self.candidates)
        self.actions = self.random.integers(0, 16, events)

    # The model

    def embedded(self, feature, table):
        return self.weight(f"_embedding_collection.embeddings.{table}.weight")[self.ids[feature]]

    def merged(self, history, candidates):
        """Each user's history, then the candidates."""
        first, second = cut(self.history), cut(self.candidates)
        return numpy.concatenate([
            part for user in range(len(self.history))
            for part in (history[first[user]:first[user + 1]], candidates[second[user]:second[user + 1]])])

    def both(self, name):
        return self.merged(self.embedded("uih_" + name, name), self.embedded("cand_" + name, name))

    def preprocess(self, stages):
        x = stages["preprocessor.content"] = self.mlp(PREPROCESSOR + "_content_embedding_mlp", self.both("item"))
        if self.additional:
            features = numpy.concatenate([self.both(name) for name in self.additional], 1)
            more = self.mlp(PREPROCESSOR + "_additional_embedding_mlp", features)
            stages["preprocessor.additional"] = more
            x = x + more
        encoder = PREPROCESSOR + "_action_encoder."
        is_set = (self.actions[:, None] & numpy.array(self.bits)) > 0
        rows = is_set[:, :, None] * self.weight(encoder + "_action_embedding_table")
        target = self.weight(encoder + "_target_action_embedding_table")
        actions = self.merged(
            rows.reshape(len(self.actions), len(self.bits) * 8), numpy.tile(target, (sum(self.candidates), 1)))
        stages["preprocessor.action_embedding"] = actions
        stages["preprocessor.action"] = self.mlp(PREPROCESSOR + "_action_embedding_mlp", actions)
        x = x + stages["preprocessor.action"]
        events = numpy.add(self.history, self.candidates)
        offsets, times = cut(events), self.merged(self.event_times, self.request_times)
        all_rows, all_times = [], []
        for user, count in enumerate(events):
            all_rows += self.contextual_rows(user, count)
            all_rows += list(x[offsets[user]:offsets[user + 1]])
            all_times += [0] * self.slots + list(times[offsets[user]:offsets[user + 1]])
        self.lengths = events + self.slots
        self.offsets = cut(self.lengths)
        self.times = numpy.array(all_times, numpy.int64)
        stages |= {
            "preprocessor.out": numpy.array(all_rows), "preprocessor.lengths": self.lengths,
            "preprocessor.offsets": self.offsets, "preprocessor.timestamps": self.times,
        }

    def contextual_rows(self, user, events):
        rows = []
        for name, slots in self.contextual.items():
            first = cut(self.counts[name])[user]
            for slot in range(slots):
                row = numpy.zeros(self.table_width)
                if slot < self.counts[name][user] and events >= self.minimum.get(name, 0):
                    row = self.embedded(name, name)[first + slot]
                weight = self.weight(PREPROCESSOR + "_batched_contextual_linear_weights")[len(rows)]
                rows.append(row @ weight + self.weight(PREPROCESSOR + "_batched_contextual_linear_bias")[len(rows)])
        return rows

    def place(self, stages, last_bucket):
        positions, buckets = [], []
        for user, length in enumerate(self.lengths):
            history = length - self.candidates[user]
            for p in range(length):
                backward = min(history - min(p, history) + self.slots, self.positions - 1)
                positions.append(p if p < self.slots else backward)
                seconds = numpy.float32(self.times[self.offsets[user + 1] - 1] - self.times[self.offsets[user] + p])
                minutes = max(seconds, numpy.float32(1e-6)) / numpy.float32(60)
                scaled = numpy.sqrt(minutes) if self.scale == "sqrt" else numpy.float32(numpy.log(float(minutes)))
                buckets.append(min(max(int(scaled), 0), last_bucket))
        stages |= {"position_index": numpy.array(positions), "time_bucket": numpy.array(buckets)}
        stages["positional.out"] = (
            stages["preprocessor.out"] * self.width**0.5
            + self.weight(POSITIONS + "_position_embeddings_weight")[positions]
            + self.weight(POSITIONS + "_timestamp_embeddings_weight")[buckets])

    def sees(self, row, key, length, targets):
        """Whether the mask shows a key to a row (places in a sequence)."""
        history, context = length - targets, self.mask_contextual
        last = history - context + 1 if context else history

        def identity(p):
            if p >= history:
                return last
            return p if not context else max(p - context + 1, 0)

        mine, other = identity(row), identity(key)
        if context and mine == 0 and other < last:
            return True
        in_window = not self.window or mine - other <= self.window or (self.tail and mine >= last - self.tail)
        return row == key or (mine > other and bool(in_window))

    def layer(self, index, x):
        name = f"_hstu_transducer._stu_module._stu_layers.{index}."
        normed = layer_norm(x, self.weight(name + "_input_norm_weight"), self.weight(name + "_input_norm_bias"), 1e-6)
        projected = normed @ self.weight(name + "_uvqk_weight") + self.weight(name + "_uvqk_beta")
        values, queries = self.heads * self.value, self.heads * self.query
        u, v, q, k = numpy.split(projected, numpy.cumsum([values, values, queries]), 1)
        u = u * sigmoid(u)
        attended = numpy.zeros_like(v)
        for user, length in enumerate(self.lengths):
            start, targets = self.offsets[user], self.candidates[user]
            for row in range(length):
                for key in (key for key in range(length) if self.sees(row, key, length, targets)):
                    for head in range(self.heads):
                        own = slice(head * self.query, (head + 1) * self.query)
                        columns = slice(head * self.value, (head + 1) * self.value)
                        score = q[start + row, own] @ k[start + key, own] * self.query**-0.5
                        attended[start + row, columns] += (
                            score * sigmoid(score) / self.divisor * v[start + key, columns])
        weight, bias = self.weight(name + "_output_norm_weight"), self.weight(name + "_output_norm_bias")
        parts = self.heads if self.group_norm else 1
        heads = attended.reshape(len(x), parts, -1)
        if self.group_norm:
            weight, bias = weight[:, None], bias[:, None]
        y = u * layer_norm(heads, weight, bias, 1e-6).reshape(len(x), -1)
        return x + numpy.concatenate([u, attended, y], 1) @ self.weight(name + "_output_weight")

    def postprocess(self, x):
        if self.norm == "l2":
            return x / numpy.maximum(numpy.sqrt((x * x).sum(-1, keepdims=True)), 1e-6)
        if self.norm == "timestamp_layer_norm":
            for unit, count in PERIODS:
                units = [int(numpy.float32(time)) // unit % count for time in self.request_times]
                turn = numpy.float32(units) / numpy.float32(count) * numpy.float32(2) * numpy.float32(3.14)
                angle = turn.astype(numpy.float64)[:, None]
                x = numpy.concatenate([x, numpy.cos(angle), numpy.sin(angle)], 1)
            combiner = POSTPROCESSOR + "_time_feature_combiner."
            x = x @ self.weight(combiner + "weight").T + self.weight(combiner + "bias")
        norm = POSTPROCESSOR + "_layer_norm."
        return layer_norm(x, self.weight(norm + "weight"), self.weight(norm + "bias"), 1e-5)

    def rank(self, stages):
        x = stages["positional.out"]
        for index in range(2):
            x = stages[f"stack.{index}.out"] = self.layer(index, x)
        ends = zip(self.offsets[1:], self.candidates)
        users = self.postprocess(numpy.concatenate([x[end - count:end] for end, count in ends]))
        features = numpy.concatenate([self.embedded("cand_" + name, name) for name in self.item_features], 1)
        items = self.mlp("_item_embedding_mlp", features)
        logits = self.mlp("_multitask_module._prediction_module", users * items, is_normed=False).T
        is_binary = numpy.array([task == "binary" for task in self.tasks])[:, None]
        stages |= {
            "candidate_user_embeddings": users, "item_embeddings": items, "task_logits": logits,
            "predictions": numpy.where(is_binary, sigmoid(logits), logits),
        }

    # The files

    def run(self):
        self.add_weights()
        self.add_batch()
        stages, other = {}, {}
        self.preprocess(stages)
        other |= stages
        self.place(stages, self.time_buckets)
        self.rank(stages)
        self.place(other, min(self.width - 1, self.time_buckets))
        self.rank(other)
        alternative = ["positional.out", "candidate_user_embeddings", "predictions"]
        return ({"expected." + name: value for name, value in stages.items()}
                | {"expected_alt." + name: other[name] for name in alternative})

    def inputs(self):
        inputs = {"ids." + name: ids for name, ids in self.ids.items()}
        inputs |= {"lengths." + name: counts for name, counts in self.counts.items()}
        inputs |= {
            "uih_time": self.event_times, "cand_query_time": self.request_times, "uih_weight": self.actions,
            "uih_offsets": cut(self.history), "candidate_offsets": cut(self.candidates),
        }
        return {"input." + name: numpy.asarray(value, numpy.int64) for name, value in inputs.items()}

    def attributes(self):
        kind = "group_norm" if self.group_norm else "layer_norm"
        norm = {"kind": "layer_norm", "affine": True, "eps": 1e-6, "over": "embedding_dim"}
        output_norm = {
            "kind": kind, "eps": 1e-6,
            "affine": f"one weight and bias a {'head' if self.group_norm else 'channel'}",
            "over": "hidden_dim, each head apart" if self.group_norm else "num_heads*hidden_dim",
        }
        layer = {
            "embedding_dim": self.width, "num_heads": self.heads, "attention_dim": self.query,
            "hidden_dim": self.value, "alpha": self.query**-0.5, "divisor_N": self.divisor,
            "max_attn_len": self.window, "min_full_attn_seq_len": self.tail,
            "contextual_seq_len": self.mask_contextual, "input_norm": norm, "uvqk_bias": True,
            "activations": {"u": "silu", "v": "none", "q": "none", "k": "none", "scores": "silu"},
            "output_norm": output_norm,
        }
        postprocessor = {"kind": self.norm, "eps": 1e-6 if self.norm == "l2" else 1e-5}
        if self.norm == "timestamp_layer_norm":
            postprocessor["time_duration_features"] = PERIODS
        return {
            "contextual_seq_len": self.slots, "transducer_embedding_dim": self.width,
            "preprocessor_hidden_dim": self.hidden,
            "tables": {
                name: {"table": (table := name.removeprefix("uih_").removeprefix("cand_")), "rows": self.tables[table]}
                for name in self.ids
            },
            "contextual_feature_to_max_length": self.contextual,
            "contextual_feature_to_min_uih_length": self.minimum,
            "additional_embedding_features": ["uih_" + name for name in self.additional],
            "action_encoder": {
                "action_weights": self.bits, "action_embedding_dim": 8, "action_feature": "uih_weight",
            },
            "positional_encoder": {
                "num_position_buckets": self.positions, "num_time_buckets": self.time_buckets,
                "time_bucket_fn": self.scale, "time_bucket_increment_seconds": 60.0,
            },
            "layers": [layer, layer], "postprocessor": postprocessor,
            "item_features": ["cand_" + name for name in self.item_features],
            "multitask": {
                "hidden": 19, "tasks": [{"name": f"task{i}", "type": kind} for i, kind in enumerate(self.tasks)],
            },
        }

    def write(self, folder, name):
        expected, outputs, tensors = self.run(), {}, dict(self.weights)
        tensors |= self.inputs()
        for key, value in expected.items():
            is_exact = value.dtype.kind == "i"
            tensors[key] = value.astype(numpy.int64 if is_exact else numpy.float32)
            largest = float(numpy.abs(value).max())
            outputs[key] = {"shape": value.shape, "dtype": tensors[key].dtype.name} | (
                {"exact": True} if is_exact else {"max_abs": largest, "atol": 2e-5 * max(1, largest), "rtol": 1e-4})
        case = {
            "case": name, "kind": "dlrm_hstu", "attributes": self.attributes(), "weights": list(self.weights),
            "inputs": [key for key in tensors if key.startswith("input.")], "outputs": outputs,
        }
        (folder / f"{name}.json").write_text(json.dumps(case, indent=1) + "\n")
        header, data = {}, b""
        for key, value in tensors.items():
            element = {"f": "F32", "i": "I64"}[value.dtype.kind]
            end = len(data) + value.nbytes
            header[key] = {"dtype": element, "shape": value.shape, "data_offsets": [len(data), end]}
            data += numpy.ascontiguousarray(value).tobytes()
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        (folder / f"{name}.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)


CASES = {
    # No contextual rows: the first layer reads events as a call brings them. A user without history.
    "no_contextual": dict(
        seed=1, history=[7, 0, 12], candidates=[2, 3, 0], additional=["category"], item_features=["item", "category"],
        tasks=["binary", "regression", "binary"], width=25, table_width=9, heads=2, query=8, value=5),
    # Logarithmic buckets, the L2 norm, group norms, a feature with three slots that needs eleven events.
    "logarithm_l2": dict(
        seed=2, history=[5, 9], candidates=[1, 4], contextual={"user": 1, "tags": 3}, minimum={"tags": 11},
        norm="l2", scale="log", group_norm=True, tasks=["regression"], width=24, heads=3, query=8, value=8),
    # A mask that counts contextual rows, a window with a full tail, positions that run out.
    "masked_contextual": dict(
        seed=4, history=[9, 4], candidates=[2, 2], contextual={"user": 2}, additional=["category"],
        item_features=["category"], norm="timestamp_layer_norm", mask_contextual=2, window=4, tail=2, positions=9,
        width=16, table_width=7, heads=2, query=16, value=16),
}
DEFAULTS = dict(
    contextual={}, minimum={}, additional=[], item_features=["item"], norm="layer_norm", scale="sqrt",
    group_norm=False, mask_contextual=0, window=0, tail=0, bits=[1, 2, 4], tasks=["binary"], hidden=23,
    positions=40, time_buckets=50, table_width=8)


def main():
    folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).resolve().parent
    folder.mkdir(parents=True, exist_ok=True)
    for name, settings in CASES.items():
        Model(**(DEFAULTS | settings)).write(folder, name)


if __name__ == "__main__":
    main()
