"""What a case computes, in float64 with numpy: what every peer's result is held to."""

import numpy

from stacks import DIVISOR, EPSILON, Case, Stack

BLOCK = 256


def expected(case: Case, inputs: numpy.ndarray) -> numpy.ndarray:
    """The rows after the last layer, float64."""
    stack, x = case.stack, inputs.astype(numpy.float64)
    for weights in stack.layer_weights():
        weights = {name: values.astype(numpy.float64) for name, values in weights.items()}
        n = _norm(x, weights["input_norm_weight"], weights["input_norm_bias"])
        u, v, q, k = numpy.split(_silu(n @ weights["uvqk_weight"] + weights["uvqk_beta"]), 4, axis=1)
        a = numpy.empty_like(v)
        first = 0
        for length in case.lengths:
            rows = slice(first, first + length)
            a[rows] = _attention(stack, q[rows], k[rows], v[rows])
            first += length
        x = x + (u * _norm(a, weights["output_norm_weight"], weights["output_norm_bias"])) @ weights["output_weight"]
    return x


def _attention(stack: Stack, q: numpy.ndarray, k: numpy.ndarray, v: numpy.ndarray) -> numpy.ndarray:
    result = numpy.empty_like(v)
    for first in range(0, len(q), BLOCK):
        rows = numpy.arange(first, min(first + BLOCK, len(q)))
        keys = numpy.concatenate([numpy.arange(*r) for r in stack.key_ranges(first, int(rows[-1]) + 1)])
        seen = stack.visible(rows, keys)
        for head in range(stack.heads):
            columns = slice(head * stack.head, (head + 1) * stack.head)
            scores = _silu(stack.alpha * (q[rows, columns] @ k[keys, columns].T)) * seen
            result[rows, columns] = scores @ v[keys, columns] / DIVISOR
    return result


def _silu(x: numpy.ndarray) -> numpy.ndarray:
    return x / (1 + numpy.exp(-x))


def _norm(x: numpy.ndarray, weight: numpy.ndarray, bias: numpy.ndarray) -> numpy.ndarray:
    centred = x - x.mean(axis=1, keepdims=True)
    return centred / numpy.sqrt((centred**2).mean(axis=1, keepdims=True) + EPSILON) * weight + bias


# Roundings of a layer that a number of the residual passes through where everything is kept in bf16: the norm, the
# first product, its activation, scores, activated scores, their product with v, the norm, the gate, the last product,
# the residual.
ROUNDINGS_A_LAYER = 10
BF16_ROUNDING = 2.0**-9
FP32_ROUNDING = 2.0**-24


def tolerance(precision: str, case: Case) -> float:
    """How far a result may be off, as `difference` measures it.

    Roundings of at most u each, independent of each other, add up to u * sqrt(how many). In bf16, sums are fp32 and add
    nothing that counts; in fp32 a sum of n products rounds n times.
    """
    roundings = case.stack.layers * ROUNDINGS_A_LAYER
    if precision == "bf16":
        return BF16_ROUNDING * roundings**0.5
    longest_sum = max(case.stack.width, case.stack.inner, max(case.lengths))
    return FP32_ROUNDING * (roundings + case.stack.layers * longest_sum) ** 0.5


def difference(result: numpy.ndarray, reference: numpy.ndarray) -> float:
    """Root mean square of the difference, relative to that of the reference; infinite where a number is not finite."""
    if result.shape != reference.shape:
        raise ValueError(f"a result of shape {result.shape}, expected {reference.shape}")
    if not numpy.isfinite(result).all():
        return float("inf")
    return float(numpy.sqrt(((result - reference) ** 2).mean() / (reference**2).mean()))
