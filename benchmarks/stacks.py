"""The stacks and batches that are compared, made with seeded weights, and what a forward of them needs.

The layer: SiLU on u, v, q and k; causal or semi-local attention; an output projection of u * LN(a) alone.
"""

import dataclasses
import pathlib
import sys

import numpy

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "examples" / "published"))
import make_model  # noqa: E402

EPSILON = 1e-6
# Scores are divided by a constant: a power of two, so that no precision rounds it.
DIVISOR = 4096


@dataclasses.dataclass(frozen=True)
class KeyPrefix:
    """Semi-local attention: every row sees the `prefix` first rows and the `window` latest, itself included."""

    window: int
    prefix: int


@dataclasses.dataclass(frozen=True)
class Stack:
    layers: int
    width: int
    heads: int
    # Width of a head: of queries, keys and values.
    head: int
    # None: causal.
    semi_local: KeyPrefix | None = None

    @property
    def inner(self) -> int:
        return self.heads * self.head

    @property
    def alpha(self) -> float:
        return self.head**-0.5

    @property
    def name(self) -> str:
        plural = "s" if self.layers > 1 else ""
        text = f"{self.layers} layer{plural}, D {self.width}, {self.heads} x {self.head}"
        mask = self.semi_local
        return text + (f", window {mask.window} + prefix {mask.prefix}" if mask else "")

    def key_ranges(self, first: int, end: int) -> list[tuple[int, int]]:
        """Ranges of keys, in order and apart, outside of which rows first..<end of a sequence see nothing."""
        mask = self.semi_local
        if mask is None:
            return [(0, end)]
        latest = max(first - mask.window + 1, 0)
        return [(0, end)] if latest <= mask.prefix else [(0, mask.prefix), (latest, end)]

    def visible(self, rows: numpy.ndarray, keys: numpy.ndarray) -> numpy.ndarray:
        """Whether each of these rows sees each of these keys of its sequence."""
        rows, keys = rows[:, None], keys[None, :]
        seen = keys <= rows
        if self.semi_local is not None:
            seen &= (keys < self.semi_local.prefix) | (keys > rows - self.semi_local.window)
        return seen

    def flops(self, lengths: tuple[int, ...]) -> float:
        """Additions and multiplications that a forward needs: products, and attention over visible keys."""
        products = 2 * sum(lengths) * self.width * 5 * self.inner
        pairs = sum(self._visible_pairs(length) for length in lengths)
        return float(self.layers * (products + pairs * 4 * self.inner))

    def _visible_pairs(self, length: int) -> int:
        if self.semi_local is None:
            return length * (length + 1) // 2
        rows = numpy.arange(length)
        prefix = numpy.minimum(rows + 1, self.semi_local.prefix)
        latest = rows + 1 - numpy.maximum(rows - self.semi_local.window + 1, prefix)
        return int((prefix + numpy.maximum(latest, 0)).sum())

    def model(self) -> dict:
        """The stack as model.json describes it."""
        norm = {"kind": "layer_norm", "affine": True, "epsilon": EPSILON}
        mask = self.semi_local
        form = {"form": "key_prefix", "local": mask.window, "global": mask.prefix} if mask else {"form": "causal"}
        return {
            "format": "ultrac-model/1", "name": "stack", "weights": ["weights.safetensors"], "width": self.width,
            "names": {"preset": "gr-production"}, "input": {"kind": "rows"}, "layer_count": self.layers,
            "layer": {
                "heads": self.heads, "attention_dim": self.head, "hidden_dim": self.head,
                "alpha": "1/sqrt(attention_dim)", "divisor": DIVISOR,
                "activations": {"u": "silu", "v": "silu", "q": "silu", "k": "silu"}, "input_norm": norm,
                "uvqk": {"bias": True}, "mask": form, "output_norm": norm, "concatenate": ["gated"],
                "output": {"bias": False},
            },
            "output": {"rows": "all", "norm": {"kind": "none"}},
        }

    def layer_weights(self) -> list[dict[str, numpy.ndarray]]:
        """For each layer its fp32 weights by name: input_norm_weight, uvqk_weight, ..."""
        layers = [{} for _ in range(self.layers)]
        for name, values in make_model.seeded_values(make_model.tensors(self.model())):
            index, _, role = name.partition("_stu_layers.")[2].partition("._")
            layers[int(index)][role] = values
        return layers

    def write(self, folder: pathlib.Path) -> pathlib.Path:
        """Writes the model and its weights into a folder, and gives model.json's path."""
        make_model.write_model(folder, self.model())
        return folder / "model.json"


@dataclasses.dataclass(frozen=True)
class Case:
    """A stack and the lengths of a batch's sequences."""

    stack: Stack
    lengths: tuple[int, ...]

    @property
    def name(self) -> str:
        return f"{self.stack.name}; {self.batch}"

    @property
    def batch(self) -> str:
        if len(self.lengths) == 1:
            return f"{self.lengths[0]} rows"
        return f"{len(self.lengths)} sequences of {min(self.lengths)} to {max(self.lengths)} rows"

    @property
    def rows(self) -> int:
        return sum(self.lengths)

    @property
    def flops(self) -> float:
        return self.stack.flops(self.lengths)

    def inputs(self) -> numpy.ndarray:
        """The rows of all sequences, one after the other."""
        return numpy.random.default_rng(2).standard_normal((self.rows, self.stack.width)).astype(numpy.float32)


PRODUCTION = Stack(6, 512, 4, 128)
NARROW = Stack(4, 256, 4, 64)
ML20M_LARGE = Stack(16, 256, 8, 32)
SEMI_LOCAL = Stack(6, 512, 4, 128, KeyPrefix(window=256, prefix=128))
ML1M_LARGE = Stack(8, 50, 2, 25)
JAGGED = (64, 1024, 192, 832, 320, 448, 640, 128)

# Every kind of case, small enough for a minute: shows that everything works, not how fast it is.
QUICK_CASES = [
    Case(Stack(2, 512, 4, 128), (256,)),
    Case(Stack(2, 256, 8, 32), (300,)),
    Case(Stack(2, 128, 2, 64, KeyPrefix(window=256, prefix=128)), (700,)),
    Case(Stack(2, 256, 4, 64), (64, 320, 17)),
    Case(Stack(2, 50, 2, 25), (200,)),
]
