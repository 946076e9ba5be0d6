"""Wrong backward passes: correct layers, each with one mistake that people make.

Combinators too: their own wiring is spoilt then, and their parts are right.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxnn import parallel, residual, serial, stack
from jaxnn.layers import (
    Layer,
    avg_pool,
    batch_norm,
    conv,
    dense,
    dropout,
    embedding,
    flatten,
    global_avg_pool,
    gru,
    layer_norm,
    leaky_relu,
    lstm,
    max_pool,
    multi_head_attention,
    relu,
    rnn,
    sigmoid,
    softplus,
    tanh,
)
from jaxnn.losses import mse, sigmoid_cross_entropy, softmax_cross_entropy
from jaxnn.regularize import l1, l2, sum_penalties


class Bug(NamedTuple):
    """A mistake in one layer's backward, and the arguments whose gradient it spoils."""

    title: str
    layer: Layer
    change: Callable  # (dx, grads, cache, dy) -> (dx, grads)
    wrong: frozenset[str]

    def spoilt(self) -> Layer:
        def backward(cache, dy):
            dx, grads = self.layer.backward(cache, dy)
            return self.change(dx, grads, cache, dy)

        return self.layer._replace(backward=backward)


def bug(title, layer, wrong, change):
    return Bug(title, layer, change, frozenset(wrong.split()))


def on(name, function):
    """Change one gradient by a function of itself."""

    def change(dx, grads, cache, dy):
        if name == "x":
            return function(dx), grads
        return dx, {**grads, name: function(grads[name])}

    return change


def sign(name):
    return on(name, jnp.negative)


def times(name, factor):
    return on(name, lambda d: d * factor)


def zero(name):
    return on(name, jnp.zeros_like)


def swap(a, b):
    return lambda dx, g, cache, dy: (dx, {**g, a: g[b], b: g[a]})


def blocks(d, order, axis=-1):
    """Blocks of the last axis, such as an LSTM's gates, in another order."""
    parts = jnp.split(d, len(order), axis)
    return jnp.concatenate([parts[i] for i in order], axis)


def _stale_w(dx, grads, cache, dy):
    stale = (jnp.roll(cache[0], 1, 0), cache[1])  # the inputs of another batch
    rows = stale[0].reshape(-1, stale[0].shape[-1])
    return dx, {**grads, "w": rows.T @ dy.reshape(-1, dy.shape[-1])}


def _no_statistics(dx, grads, cache, dy):
    """The derivative of evaluation, where statistics are constants, in training."""
    return dy * (cache.gamma * cache.inv_std)[None], grads


def _forget_gamma(dx, grads, cache, dy):
    """gamma is 1 to begin with, so nothing shows at the first step."""
    gamma = cache.gamma.reshape((1,) * (dx.ndim - 1) + cache.gamma.shape)
    return dx / gamma, grads


def _only_batches(dx, grads, cache, dy):
    """Right for one sample; that is how it was tested."""
    return dx, {**grads, "b": dy[0]}


def block():
    return serial(dense(4), tanh)


FAMILIES: dict[str, tuple[tuple[int, ...], list]] = {
    "dense": (
        (5,),
        [
            bug("dense: sign of dw", dense(6), "w", sign("w")),
            bug("tanh: 1 - x^2 for 1 - y^2", tanh, "x",
                lambda dx, g, y, dy: (dy * (1 - jnp.arctanh(y) ** 2), g)),
            bug("dense: dw a percent too large", dense(6), "w", times("w", 1.01)),
            bug("relu: mask the wrong way round", relu, "x",
                lambda dx, g, off, dy: (jnp.where(off, dy, 0), g)),
            bug("dense: db not summed over the batch", dense(6), "b",
                lambda dx, g, c, dy: (dx, {**g, "b": dy})),
            bug("dense: dx without the transpose", dense(6), "x",
                lambda dx, g, c, dy: (dy @ c[1], g)),
            bug("leaky relu: slope left out", leaky_relu(0.3), "x",
                lambda dx, g, below, dy: (jnp.where(below, 0, dy), g)),
            bug("dense: dw transposed", dense(6), "w", on("w", jnp.transpose)),
            bug("dense: db a mean over the batch", dense(6), "b",
                lambda dx, g, c, dy: (dx, {**g, "b": dy.mean(0)})),
            bug("sigmoid: y for y (1 - y)", sigmoid, "x",
                lambda dx, g, y, dy: (dy * y, g)),
            bug("dense: inputs of another batch", dense(6), "w", _stale_w),
            bug("dense: last unit a thousandth off", dense(6), "w",
                on("w", lambda d: d.at[:, -1].mul(1.001))),
            bug("dropout: not scaled", dropout(0.4), "x",
                lambda dx, g, keep, dy: (jnp.where(keep, dy, 0), g)),
            bug("dense: right for one sample only", dense(6), "b", _only_batches),
            bug("softplus: detached", softplus, "x", zero("x")),
            bug("dense: one entry in a thousand", dense(6), "w",
                on("w", lambda d: d.at[3, 2].mul(1.001))),
            dense(3),
        ],
    ),
    "images": (
        (8, 8, 3),
        [
            bug("conv: kernel not flipped", conv(3), "w",
                on("w", lambda d: jnp.flip(d, (0, 1)))),
            bug("conv: off by one in the padding", conv(3), "x",
                on("x", lambda d: jnp.roll(d, 1, 2))),
            tanh,
            bug("avg_pool: share of the window left out", avg_pool(2, 1), "x",
                times("x", 4)),
            bug("conv: channels in and out exchanged", conv(3), "w",
                on("w", lambda d: d.swapaxes(2, 3))),
            bug("max_pool: dy to its neighbor", max_pool(2), "x",
                on("x", lambda d: jnp.roll(d, 1, 1))),
            bug("conv: db a mean over positions", conv(3), "b",
                lambda dx, g, c, dy: (dx, {**g, "b": dy.mean((0, 1, 2))})),
            bug("batch_norm: gamma and beta swapped", batch_norm(), "gamma beta",
                swap("gamma", "beta")),
            bug("conv: sign of dx", conv(4), "x", sign("x")),
            bug("global_avg_pool: size of the image left out", global_avg_pool, "x",
                times("x", 9)),
            dense(3),
        ],
    ),
    "norms": (
        (6,),
        [
            dense(6),
            bug("batch_norm: derivative of evaluation", batch_norm(), "x",
                _no_statistics),
            bug("layer_norm: gamma left out of dx", layer_norm(), "x", _forget_gamma),
            dense(6),
            bug("batch_norm: gamma left out of dx", batch_norm(), "x", _forget_gamma),
            bug("batch_norm: dbeta a mean", batch_norm(), "beta",
                lambda dx, g, c, dy: (dx, {**g, "beta": dy.mean(0)})),
            bug("batch_norm: dgamma with x, not x_hat", batch_norm(), "gamma",
                lambda dx, g, c, dy: (
                    dx, {**g, "gamma": (dy * (c.x_hat / c.inv_std[None])).sum(0)})),
            dense(6),
            bug("layer_norm: term with x_hat left out", layer_norm(), "x",
                lambda dx, g, c, dy: (
                    (dy * c.gamma[None] - (dy * c.gamma[None]).mean(-1, keepdims=True))
                    * c.inv_std, g)),
            bug("layer_norm: dgamma of the first sample", layer_norm(), "gamma",
                lambda dx, g, c, dy: (dx, {**g, "gamma": (dy * c.x_hat)[0]})),
            dense(3),
        ],
    ),
    "sequences": (
        (4, 4),
        [
            bug("lstm: two gates of dw exchanged", lstm(4, True), "w",
                on("w", lambda d: blocks(d, (1, 0, 2, 3)))),
            bug("lstm: du transposed, gate by gate", lstm(4, True), "u",
                on("u", lambda d: blocks(d.T, (0, 1, 2, 3), 0).reshape(4, 4, 4)
                   .transpose(1, 0, 2).reshape(4, 16))),
            bug("attention: keys and values exchanged", multi_head_attention(2),
                "w_in", on("w_in", lambda d: blocks(d, (0, 2, 1)))),
            bug("lstm: dx reversed in time", lstm(4, True), "x",
                on("x", lambda d: jnp.flip(d, 1))),
            bug("attention: db_out not summed over time", multi_head_attention(2),
                "b_out", lambda dx, g, c, dy: (dx, {**g, "b_out": dy[:, -1].sum(0)})),
            bug("gru: db without the reset gate", gru(4, True), "b",
                on("b", lambda d: d.at[4:8].set(0))),
            bug("attention: scale left out of the queries", multi_head_attention(2),
                "w_in", on("w_in", lambda d: d.at[:, :4].mul(2**0.5))),
            bug("rnn: dw of the last step only", rnn(4), "w", times("w", 0.25)),
            dense(3),
        ],
    ),
    "wiring": (
        (4,),
        [
            dense(4),
            bug("residual without its skip", residual(block()), "x",
                lambda dx, g, c, dy: (dx - dy, g)),
            bug("parallel counts a branch twice", parallel(block(), dense(4)),
                "1/b 1/w", lambda dx, g, c, dy: (
                    dx, (g[0], jax.tree.map(lambda a: 2 * a, g[1])))),
            bug("serial mixes its layers up", serial(dense(4), dense(4)),
                "0/b 0/w 1/b 1/w", lambda dx, g, c, dy: (dx, (g[1], g[0]))),
            bug("stack gives all copies the gradient of the first", stack(dense(4), 3),
                "stacked/b stacked/w", lambda dx, g, c, dy: (
                    dx, jax.tree.map(lambda a: a[:1] + 0 * a, g))),
            dense(3),
        ],
    ),
    "indices": (
        (4,),
        [
            bug("embedding: last row never updated", embedding(5, 3), "w",
                on("w", lambda d: d.at[-1].set(0))),
            flatten,
            dense(3),
        ],
    ),
}  # fmt: skip


def spoilt_loss(loss, change):
    def wrong(pred, target):
        value, dpred = loss(pred, target)
        return value, change(dpred)

    return wrong


def spoilt_penalty(penalty, change):
    def wrong(params):
        value, dparams = penalty(params)
        return value, jax.tree.map(change, dparams)

    return wrong


def _l1_as_l2(params):
    value, _ = l1(0.1)(params)
    return value, jax.tree.map(lambda w: 0.1 * w if w.ndim > 1 else 0 * w, params)


LOSS_BUGS = {
    "cross-entropy: sum, not mean": spoilt_loss(softmax_cross_entropy, lambda d: 8 * d),
    "mse: the 2 left out": spoilt_loss(mse, lambda d: d / 2),
    "sigmoid cross-entropy: sign": spoilt_loss(sigmoid_cross_entropy, jnp.negative),
    "cross-entropy: last class": spoilt_loss(
        softmax_cross_entropy, lambda d: d.at[:, -1].mul(1.01)
    ),
}
PENALTY_BUGS = {
    "l2: twice": spoilt_penalty(l2(0.1), lambda d: 2 * d),
    "l1: w for its sign": _l1_as_l2,
    "both: sign": spoilt_penalty(sum_penalties(l1(0.1), l2(0.1)), jnp.negative),
}
