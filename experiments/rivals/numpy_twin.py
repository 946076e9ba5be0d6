"""Rival: forward and backward by hand in NumPy, as fast as we know how to write it.

No array is made inside an epoch: every result goes to a buffer of its own. All
parameters lie in one vector, so that an optimizer is a few calls and not a few a layer.
BLAS keeps its default number of threads: on 2 cores, 2 make no difference that shows
for 784-30-10 and save up to a third for wider networks.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from experiments.rivals import Rival, Task, batches, start, unit


class Network(NamedTuple):
    """Parameters, their gradient and the two passes, on buffers for one batch."""

    params: np.ndarray  # (P,), the layers are views into it
    grads: np.ndarray  # (P,)
    weights: list[tuple[np.ndarray, np.ndarray]]  # views: w (I, O), b (O,)
    gradient: Callable  # (x (B, I), y (B,), scale) -> the batch's summed loss


def network(widths: Sequence[int], batch: int, seed: int, dtype=np.float32) -> Network:
    """Make start weights and all buffers; float64 is there to check the gradient."""
    layers = start(widths, seed)
    params = np.concatenate([a.ravel() for layer in layers for a in layer]).astype(
        dtype
    )
    grads = np.zeros_like(params)
    weights, slopes = _views(params, widths), _views(grads, widths)
    outs = [np.empty((batch, o), dtype) for o in widths[1:]]
    douts = [np.empty((batch, o), dtype) for o in widths[1:-1]]
    masks = [np.empty((batch, o), bool) for o in widths[1:-1]]
    hidden = list(zip(weights[:-1], outs[:-1], strict=True))
    backward = list(zip(slopes[1:], weights[1:], outs[:-1], douts, masks, strict=True))[
        ::-1
    ]
    (w_last, b_last), z = weights[-1], outs[-1]
    dw_first, db_first = slopes[0]
    logits = z.reshape(-1)
    rows = np.arange(batch) * widths[-1]
    label = np.empty(batch, rows.dtype)
    top, total = np.empty((batch, 1), dtype), np.empty((batch, 1), dtype)
    total_flat = total.reshape(-1)
    # A product with ones sums twice as fast as np.add.reduce on arrays this small, and
    # an array as the zero spares ufuncs the conversion of a Python number.
    ones_batch, ones_classes = np.ones(batch, dtype), np.ones(widths[-1], dtype)
    zero = np.zeros((), dtype)

    def gradient(x, y, scale):
        """`grads` = scale * d(summed loss)/d(params); returns the summed loss."""
        h = x  # (B, I)
        for (w, b), out in hidden:
            np.dot(h, w, out=out)
            np.add(out, b, out=out)
            h = np.maximum(out, zero, out=out)
        np.dot(h, w_last, out=z)
        np.add(z, b_last, out=z)
        np.maximum.reduce(z, axis=1, out=top, keepdims=True)
        np.subtract(z, top, out=z)  # else exp overflows
        np.add(rows, y, out=label)
        right = logits[label]
        np.exp(z, out=z)
        np.dot(z, ones_classes, out=total_flat)
        loss = np.log(total_flat).sum() - right.sum()

        np.divide(z, total, out=z)
        logits[label] -= 1  # d(loss)/d(logits) = softmax - onehot
        dout = np.multiply(z, scale, out=z)
        for (dw, db), (w, _), h, dh, mask in backward:
            np.dot(h.T, dout, out=dw)
            np.dot(ones_batch, dout, out=db)
            np.dot(dout, w.T, out=dh)
            np.greater(h, zero, out=mask)
            dout = np.multiply(dh, mask, out=dh)
        np.dot(x.T, dout, out=dw_first)
        np.dot(ones_batch, dout, out=db_first)
        return loss

    return Network(params, grads, weights, gradient)


def _views(flat, widths):
    views, at = [], 0
    for i, o in pairwise(widths):
        w = flat[at : at + i * o].reshape(i, o)
        b = flat[at + i * o : at + i * o + o]
        views.append((w, b))
        at += i * o + o
    return views


def _sgd(params, grads, learning_rate):
    """Return the update and the factor it wants its gradient to have."""

    def update():
        np.subtract(params, grads, out=params)

    return update, learning_rate


def _adam(params, grads, learning_rate, b1=0.9, b2=0.999, eps=1e-8):
    """Adam, Kingma and Ba 2014, https://arxiv.org/abs/1412.6980, in ten passes.

    The moments are kept without their factors 1 - b, which go into the two scalars
    of the step: m / (1 - b1**t) * (1 - b1) and so on.
    """
    m, v, work = (np.zeros_like(params) for _ in range(3))
    t = 0

    def update():
        nonlocal t
        t += 1
        root = ((1 - b2) / (1 - b2**t)) ** 0.5
        np.multiply(m, b1, out=m)
        np.add(m, grads, out=m)
        np.multiply(grads, grads, out=work)
        np.multiply(v, b2, out=v)
        np.add(v, work, out=v)
        np.sqrt(v, out=work)
        np.add(work, eps / root, out=work)
        np.divide(m, work, out=work)
        np.multiply(work, learning_rate * (1 - b1) / (1 - b1**t) / root, out=work)
        np.subtract(params, work, out=params)

    return update, 1.0


OPTIMIZERS = {"sgd": _sgd, "adam": _adam}


def make(task: Task) -> Rival:
    opt = task.chosen(OPTIMIZERS)
    net = network(task.widths, task.batch, task.seed)
    update, factor = opt(net.params, net.grads, task.learning_rate)
    scale = np.float32(factor / task.batch)
    images, labels = unit(task.x), task.y.astype(np.intp)
    buffer = np.empty((task.batch, task.widths[0]), np.float32)

    def epoch(index: int) -> float:
        order = batches(task, index)
        loss = 0.0
        for rows, of_rows in zip(order, labels[order], strict=True):
            # mode='clip' writes straight to `out`; the default goes through a copy
            images.take(rows, axis=0, out=buffer, mode="clip")
            loss += float(net.gradient(buffer, of_rows, scale))
            update()
        return loss / order.size

    def accuracy(x: np.ndarray, y: np.ndarray) -> float:
        h = unit(x)
        for w, b in net.weights[:-1]:
            h = np.maximum(h @ w + b, 0)
        w, b = net.weights[-1]
        return float(np.mean(np.argmax(h @ w + b, axis=1) == y))

    return Rival("numpy_twin", np.__version__, epoch, accuracy)
