"""Layers in which every step of a sequence looks at the others."""

import jax
import jax.numpy as jnp

from jaxnn import rules
from jaxnn.errors import JaxnnError
from jaxnn.layers.core import (
    Layer,
    check_count,
    check_input,
    check_params,
    check_sequence,
    constructor,
    register,
)
from jaxnn.layers.linear import Initializer, initializer
from jaxnn.rules import affine, matmul

__all__ = ["multi_head_attention"]


@constructor
def multi_head_attention(
    heads: int,
    head_width: int | None = None,
    *,
    causal: bool = False,
    init: str | Initializer = "xavier_uniform",
    bias: bool = True,
) -> Layer:
    """Self-attention in `heads` subspaces: x (B, T, D) -> y (B, T, D).

    One product x w_in gives queries, keys and values of all heads, each head attends
    by `jaxnn.rules.attention`, and w_out mixes what the heads found. Every step sees
    every step (for masks use the rule); order is not seen at all: add
    `positional_embedding` to the inputs.

    Args:
      heads: number of heads, at least 1.
      head_width: width of a head; None is D / heads.
      causal: a step sees only itself and the steps before it.
      init: initializer of w_in (D, 3 heads head_width), drawn for queries, keys and
        values apart, and of w_out (heads head_width, D).
      bias: whether b_in and b_out, from zero, are added.

    Source: Vaswani et al. 2017, section 3.2.2.
    """
    name, draw = f"multi_head_attention({heads})", initializer(init)
    product, attention = affine if bias else matmul, rules.attention(causal)
    inward = ("w_in", "b_in") if bias else ("w_in",)
    outward = ("w_out", "b_out") if bias else ("w_out",)
    check_count(name, "heads", heads)
    if head_width is not None:
        check_count(name, "head_width", head_width)

    def init_params(key, in_shape):
        check_sequence(name, in_shape)
        d, dtype = in_shape[1], jnp.result_type(float)
        if head_width is None and d % heads:
            raise JaxnnError(
                f"{name}: {d} features cannot be shared among {heads} heads; expected "
                "a multiple of heads, or a head_width"
            )
        wide = heads * (head_width or d // heads)
        *parts, last = jax.random.split(key, 4)
        params = {
            "w_in": jnp.concatenate([draw(k, (d, wide), dtype) for k in parts], 1),
            "w_out": draw(last, (wide, d), dtype),
        }
        if bias:
            params |= {"b_in": jnp.zeros(3 * wide, dtype), "b_out": jnp.zeros(d, dtype)}
        return params, (), tuple(in_shape)

    def forward(params, state, x, *, key=None, train):
        del key, train
        check_params(name, params, inward + outward)
        check_input(name, x, params["w_in"].shape[0], "batch, steps")
        qkv, kept_in = product.fwd(x, *(params[k] for k in inward))
        y, kept = attention.fwd(*_to_heads(qkv, heads, 3))
        y, kept_out = product.fwd(_from_heads(y), *(params[k] for k in outward))
        return y, state, (kept_in, kept, kept_out)

    def backward(cache, dy):
        kept_in, kept, kept_out = cache
        dfound, *dout = product.bwd(kept_out, dy)
        dqkv = attention.bwd(kept, *_to_heads(dfound, heads, 1))
        dqkv = jnp.concatenate([_from_heads(d) for d in dqkv], -1)
        dx, *din = product.bwd(kept_in, dqkv)
        return dx, dict(zip(inward + outward, (*din, *dout), strict=True))

    return Layer(init_params, forward, backward, name)


def _to_heads(y, heads, count):
    """(B, T, count heads W) -> so many of (B, heads, T, W)."""
    b, t, wide = y.shape
    parts = y.reshape(b, t, count, heads, wide // (count * heads))
    return tuple(parts[:, :, i].swapaxes(1, 2) for i in range(count))


def _from_heads(y):
    """(B, heads, T, W) -> (B, T, heads W)."""
    b, heads, t, w = y.shape
    return y.swapaxes(1, 2).reshape(b, t, heads * w)


register(multi_head_attention)
