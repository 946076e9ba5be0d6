"""Wrong backward passes: correct layers, each with one mistake that people make.

Combinators too: their own wiring is spoilt then, and their parts are right.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxnn import layers, parallel, residual, serial, stack
from jaxnn.layers import Layer, batch_norm, conv, dense, layer_norm, tanh
from jaxnn.losses import mse, sigmoid_cross_entropy, softmax_cross_entropy
from jaxnn.regularize import l1, l2, sum_penalties


class Bug(NamedTuple):
    """A mistake in one layer's backward, and the arguments whose gradient it spoils.

    `change(gradient, cache, dy)` makes another one of that argument's gradient; of
    several arguments, of those of all parameters.
    """

    title: str
    layer: Layer
    wrong: str
    change: Callable

    def spoilt(self) -> Layer:
        def backward(cache, dy):
            dx, grads = self.layer.backward(cache, dy)
            if self.wrong == "x":
                return self.change(dx, cache, dy), grads
            if " " in self.wrong:
                return dx, self.change(grads, cache, dy)
            d = self.change(grads[self.wrong], cache, dy)
            return dx, {**grads, self.wrong: d}

        return self.layer._replace(backward=backward)


def blocks(d, order, axis=-1):
    """Blocks of the last axis, such as an LSTM's gates, in another order."""
    parts = jnp.split(d, len(order), axis)
    return jnp.concatenate([parts[i] for i in order], axis)


def _stale_w(d, cache, dy):
    """The inputs of another batch."""
    return jnp.roll(cache[0], 1, 0).T @ dy


def _forget_gamma(dx, cache, dy):
    """gamma is 1 to begin with, so nothing shows at the first step."""
    return dx / cache.gamma.reshape((1,) * (dx.ndim - 1) + cache.gamma.shape)


def _without_x_hat(dx, cache, dy):
    d = dy * cache.gamma[None]
    return (d - d.mean(-1, keepdims=True)) * cache.inv_std


def _gates_transposed(d, cache, dy):
    return d.reshape(4, 4, 4).transpose(2, 1, 0).reshape(4, 16)


block = serial(dense(4), tanh)
lstm, attention = layers.lstm(4, True), layers.multi_head_attention(2)
FAMILIES: dict[str, tuple[tuple[int, ...], list]] = {
    "dense": ((5,), [
        Bug("dense: sign of dw", dense(6), "w", lambda d, c, dy: -d),
        Bug("tanh: 1 - x^2 for 1 - y^2", tanh, "x",
            lambda d, y, dy: dy * (1 - jnp.arctanh(y) ** 2)),
        Bug("dense: dw a percent too large", dense(6), "w", lambda d, c, dy: 1.01 * d),
        Bug("relu: mask the wrong way round", layers.relu, "x",
            lambda d, off, dy: jnp.where(off, dy, 0)),
        Bug("dense: db not summed over the batch", dense(6), "b", lambda d, c, dy: dy),
        Bug("dense: dx without the transpose", dense(6), "x",
            lambda d, c, dy: dy @ c[1]),
        Bug("leaky relu: slope left out", layers.leaky_relu(0.3), "x",
            lambda d, below, dy: jnp.where(below, 0, dy)),
        Bug("dense: dw transposed", dense(6), "w", lambda d, c, dy: d.T),
        Bug("dense: db a mean over the batch", dense(6), "b",
            lambda d, c, dy: dy.mean(0)),
        Bug("sigmoid: y for y (1 - y)", layers.sigmoid, "x", lambda d, y, dy: dy * y),
        Bug("dense: inputs of another batch", dense(6), "w", _stale_w),
        Bug("dense: last unit a thousandth off", dense(6), "w",
            lambda d, c, dy: d.at[:, -1].mul(1.001)),
        Bug("dropout: not scaled", layers.dropout(0.4), "x",
            lambda d, keep, dy: jnp.where(keep, dy, 0)),
        Bug("dense: right for one sample only", dense(6), "b", lambda d, c, dy: dy[0]),
        Bug("softplus: detached", layers.softplus, "x", lambda d, c, dy: 0 * d),
        Bug("dense: one entry in a thousand", dense(6), "w",
            lambda d, c, dy: d.at[3, 2].mul(1.001)),
        dense(3),
    ]),
    "images": ((8, 8, 3), [
        Bug("conv: kernel not flipped", conv(3), "w",
            lambda d, c, dy: jnp.flip(d, (0, 1))),
        Bug("conv: off by one in the padding", conv(3), "x",
            lambda d, c, dy: jnp.roll(d, 1, 2)),
        tanh,
        Bug("avg_pool: share of the window left out", layers.avg_pool(2, 1), "x",
            lambda d, c, dy: 4 * d),
        Bug("conv: channels in and out exchanged", conv(3), "w",
            lambda d, c, dy: d.swapaxes(2, 3)),
        Bug("max_pool: dy to its neighbor", layers.max_pool(2), "x",
            lambda d, c, dy: jnp.roll(d, 1, 1)),
        Bug("conv: db a mean over positions", conv(3), "b",
            lambda d, c, dy: dy.mean((0, 1, 2))),
        Bug("batch_norm: gamma and beta swapped", batch_norm(), "gamma beta",
            lambda g, c, dy: {"gamma": g["beta"], "beta": g["gamma"]}),
        Bug("conv: sign of dx", conv(4), "x", lambda d, c, dy: -d),
        Bug("global_avg_pool: size of the image left out", layers.global_avg_pool, "x",
            lambda d, c, dy: 9 * d),
        dense(3),
    ]),
    "norms": ((6,), [
        dense(6),
        Bug("batch_norm: derivative of evaluation, where statistics are constants",
            batch_norm(), "x", lambda d, c, dy: dy * (c.gamma * c.inv_std)[None]),
        Bug("layer_norm: gamma left out of dx", layer_norm(), "x", _forget_gamma),
        dense(6),
        Bug("batch_norm: gamma left out of dx", batch_norm(), "x", _forget_gamma),
        Bug("batch_norm: dbeta a mean", batch_norm(), "beta",
            lambda d, c, dy: dy.mean(0)),
        Bug("batch_norm: dgamma with x, not x_hat", batch_norm(), "gamma",
            lambda d, c, dy: (dy * (c.x_hat / c.inv_std[None])).sum(0)),
        dense(6),
        Bug("layer_norm: term with x_hat left out", layer_norm(), "x", _without_x_hat),
        Bug("layer_norm: dgamma of the first sample", layer_norm(), "gamma",
            lambda d, c, dy: (dy * c.x_hat)[0]),
        dense(3),
    ]),
    "sequences": ((4, 4), [
        Bug("lstm: two gates of dw exchanged", lstm, "w",
            lambda d, c, dy: blocks(d, (1, 0, 2, 3))),
        Bug("lstm: du transposed, gate by gate", lstm, "u", _gates_transposed),
        Bug("attention: keys and values exchanged", attention, "w_in",
            lambda d, c, dy: blocks(d, (0, 2, 1))),
        Bug("lstm: dx reversed in time", lstm, "x", lambda d, c, dy: jnp.flip(d, 1)),
        Bug("attention: db_out not summed over time", attention, "b_out",
            lambda d, c, dy: dy[:, -1].sum(0)),
        Bug("gru: db without the reset gate", layers.gru(4, True), "b",
            lambda d, c, dy: d.at[4:8].set(0)),
        Bug("attention: scale left out of the queries", attention, "w_in",
            lambda d, c, dy: d.at[:, :4].mul(2**0.5)),
        Bug("rnn: dw of the last step only", layers.rnn(4), "w",
            lambda d, c, dy: d / 4),
        dense(3),
    ]),
    "wiring": ((4,), [
        dense(4),
        Bug("residual without its skip", residual(block), "x",
            lambda d, c, dy: d - dy),
        Bug("parallel counts a branch twice", parallel(block, dense(4)), "1/b 1/w",
            lambda g, c, dy: (g[0], jax.tree.map(lambda a: 2 * a, g[1]))),
        Bug("serial mixes its layers up", serial(dense(4), dense(4)),
            "0/b 0/w 1/b 1/w", lambda g, c, dy: g[::-1]),
        Bug("stack gives all copies the gradient of the first", stack(dense(4), 3),
            "stacked/b stacked/w",
            lambda g, c, dy: jax.tree.map(lambda a: a[:1] + 0 * a, g)),
        dense(3),
    ]),
    "indices": ((4,), [
        Bug("embedding: last row never updated", layers.embedding(5, 3), "w",
            lambda d, c, dy: d.at[-1].set(0)),
        layers.flatten,
        dense(3),
    ]),
}  # fmt: skip


def spoilt(function, change):
    """A loss or a penalty whose gradients, array by array, are changed."""

    def wrong(*args):
        value, d = function(*args)
        return value, jax.tree.map(change, d)

    return wrong


def _l1_as_l2(params):
    value, _ = l1(0.1)(params)
    return value, jax.tree.map(lambda w: 0.1 * w if w.ndim > 1 else 0 * w, params)


LOSS_BUGS = {
    "cross-entropy: sum, not mean": spoilt(softmax_cross_entropy, lambda d: 8 * d),
    "mse: the 2 left out": spoilt(mse, lambda d: d / 2),
    "sigmoid cross-entropy: sign": spoilt(sigmoid_cross_entropy, jnp.negative),
    "cross-entropy: last class": spoilt(
        softmax_cross_entropy, lambda d: d.at[:, -1].mul(1.01)
    ),
}
PENALTY_BUGS = {
    "l2: twice": spoilt(l2(0.1), lambda d: 2 * d),
    "l1: w for its sign": _l1_as_l2,
    "both: sign": spoilt(sum_penalties(l1(0.1), l2(0.1)), jnp.negative),
}
