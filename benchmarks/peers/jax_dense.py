"""JAX: one jit of the whole stack."""

import jax
import jax.numpy as jnp
import numpy

from peers import Job, Prepared, dense
from stacks import EPSILON


def norm(x, weight, bias):
    # Statistics in fp32, as PyTorch's layer_norm has them.
    wide = x.astype(jnp.float32)
    centred = wide - wide.mean(axis=-1, keepdims=True)
    scale = jax.lax.rsqrt((centred * centred).mean(axis=-1, keepdims=True) + EPSILON)
    return (centred * scale).astype(x.dtype) * weight + bias


def prepare(job: Job) -> Prepared:
    dense.refuse_what_is_too_long(job)
    stack = job.stack
    dtype = jnp.bfloat16 if job.is_bf16 else jnp.float32

    def heads(t):
        return t.reshape(*t.shape[:2], stack.heads, stack.head)

    @jax.jit
    def forward(x, layers, mask):
        for w in layers:
            n = norm(x, w["input_norm_weight"], w["input_norm_bias"])
            u, v, q, k = jnp.split(jax.nn.silu(n @ w["uvqk_weight"] + w["uvqk_beta"]), 4, axis=-1)
            q, k, v = heads(q * dtype(stack.alpha)), heads(k), heads(v)
            scores = jax.nn.silu(jnp.einsum("bqhd,bkhd->bhqk", q, k)) * mask
            a = jnp.einsum("bhqk,bkhd->bqhd", scores, v).reshape(*x.shape[:2], stack.inner)
            x = x + (u * norm(a, w["output_norm_weight"], w["output_norm_bias"])) @ w["output_weight"]
        return x

    arguments = jax.tree.map(lambda t: jnp.asarray(t, dtype), (dense.padded(job), stack.layer_weights(), dense.mask(job)))
    compiled = forward.lower(*arguments).compile()
    return Prepared(
        lambda: compiled(*arguments).block_until_ready(),
        lambda y: dense.unpadded(job, numpy.asarray(y.astype(jnp.float32))), f"JAX {jax.__version__}")
