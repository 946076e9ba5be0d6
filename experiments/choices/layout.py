"""Rows or columns? One sample at a time, or a batch? The same gradient, other times.

A batch of N samples with I numbers each can lie in memory as (N, I), a sample a row, or
as (I, N), a sample a column. Mathematics books like columns, z = W x + b; most programs
use rows, z = x w + b. One layer and its way back, both ways:

                 rows                       columns
    x            (N, I)                     (I, N)
    w            (I, O)                     (O, I)
    forward      z  = x w + b               z  = w x + b
    backward     dw = x^T dz                dw = dz x^T
                 dx = dz w^T                dx = w^T dz
                 db = sum over rows         db = sum over columns

The products are of the same size, so they take about the same time. But an array lies
in memory row by row: a sample that is a row is one piece, a sample that is a column is
scattered over I places. Picking a random batch shows it.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.choices import Digits, digits, milliseconds
from experiments.pictures import bars
from jaxnn.plots.panels import panels

HIDDEN, CLASSES = 128, 10


def by_rows(np_, x, t, w, b, v, c):
    """Loss and gradients of a 784-128-10 network; x (N, I), targets t (N, 10).

    `np_` is numpy or jax.numpy: the code is the same for both.
    """
    a = x @ w + b[None]  # (N, H)
    h = np_.maximum(a, 0)
    z = h @ v + c[None]  # (N, 10)
    dz = (z - t) / len(x)  # of half the squared error, mean over the batch
    da = (dz @ v.T) * (a > 0)
    loss = 0.5 * ((z - t) ** 2).sum() / len(x)
    return loss, (x.T @ da, da.sum(0), h.T @ dz, dz.sum(0))


def by_columns(np_, x, t, w, b, v, c):
    """The same with x (I, N), t (10, N), w (H, I), v (10, H)."""
    a = w @ x + b[:, None]  # (H, N)
    h = np_.maximum(a, 0)
    z = v @ h + c[:, None]  # (10, N)
    dz = (z - t) / x.shape[1]
    da = (v.T @ dz) * (a > 0)
    loss = 0.5 * ((z - t) ** 2).sum() / x.shape[1]
    return loss, (da @ x.T, da.sum(1), dz @ h.T, dz.sum(1))


def start() -> tuple[np.ndarray, ...]:
    """Weights in the row layout."""
    rng = np.random.default_rng(0)
    w = rng.normal(0, (2 / 784) ** 0.5, (784, HIDDEN)).astype(np.float32)
    v = rng.normal(0, (2 / HIDDEN) ** 0.5, (HIDDEN, CLASSES)).astype(np.float32)
    return w, np.zeros(HIDDEN, np.float32), v, np.zeros(CLASSES, np.float32)


def turned(params):
    """Weights from rows to columns or back; w and v are turned, biases stay."""
    return tuple(np.ascontiguousarray(p.T) for p in params)


def measure(args: Any) -> tuple[dict, dict]:
    data = digits(args)
    order = np.random.default_rng(1).permutation(len(data.x))[: args.batch]
    layout, looped = layouts(data, order), one_by_one(data, order)
    values = {"layout": layout, "loop": looped}
    return values, {"layout.png": draw(layout, looped)}


def layouts(data: Digits, rows: np.ndarray) -> dict:
    """Milliseconds of picking a batch and of a step, by rows and by columns."""
    images, targets = data.x, np.eye(CLASSES, dtype=np.float32)[data.y]
    images_t = np.ascontiguousarray(images.T)
    p, q = start(), turned(start())
    x, t = images[rows], targets[rows]
    x_t, t_t = np.ascontiguousarray(x.T), np.ascontiguousarray(t.T)

    loss, grads = by_rows(np, x, t, *p)
    loss_t, grads_t = by_columns(np, x_t, t_t, *q)
    gap = max(abs(a - b).max() for a, b in zip(grads, turned(grads_t), strict=True))
    assert np.isclose(loss, loss_t, rtol=1e-5), "both layouts must give one loss"
    assert gap < 1e-5, "both layouts must give the same gradients"

    jit_rows = jax.jit(lambda *a: by_rows(jnp, *a))
    jit_columns = jax.jit(lambda *a: by_columns(jnp, *a))
    on_device = [jax.tree.map(jnp.asarray, a) for a in ((x, t, *p), (x_t, t_t, *q))]
    found = milliseconds({
        "NumPy step, rows": lambda: by_rows(np, x, t, *p),
        "NumPy step, columns": lambda: by_columns(np, x_t, t_t, *q),
        "JAX step, rows": lambda: jit_rows(*on_device[0]),
        "JAX step, columns": lambda: jit_columns(*on_device[1]),
        "picking the batch, rows": lambda: images[rows],
        "picking the batch, columns": lambda: images_t[:, rows],
    })  # fmt: skip
    print(f"  largest difference of the gradients {gap:.0e}")
    return {"milliseconds": found, "largest_difference": float(gap)}


def one_by_one(data: Digits, rows: np.ndarray) -> dict:
    """A batch at once, and its samples one after the other, summed."""
    x = data.x[rows]
    t = np.eye(CLASSES, dtype=np.float32)[data.y[rows]]
    p, n = start(), len(rows)

    def loop(step, x, t, params):
        total = [np.zeros_like(a) for a in params]
        for i in range(n):
            _, grads = step(x[i : i + 1], t[i : i + 1], *params)
            for so_far, grad in zip(total, grads, strict=True):
                so_far += np.asarray(grad) / n
        return total

    def in_numpy(*a):
        return by_rows(np, *a)

    one = jax.jit(lambda *a: by_rows(jnp, *a))

    @jax.jit
    def scanned(x, t, *params):
        def add(total, sample):
            grads = by_rows(jnp, sample[0][None], sample[1][None], *params)[1]
            return jax.tree.map(lambda s, g: s + g / n, total, grads), None

        return jax.lax.scan(add, jax.tree.map(jnp.zeros_like, params), (x, t))[0]

    whole, single = in_numpy(x, t, *p)[1], loop(in_numpy, x, t, p)
    gap = max(abs(a - b).max() for a, b in zip(whole, single, strict=True))
    assert gap < 1e-5, "the mean of the samples' gradients is the batch's gradient"
    xj, tj, pj = jax.tree.map(jnp.asarray, (x, t, p))
    found = milliseconds({
        "NumPy, the batch at once": lambda: in_numpy(x, t, *p),
        "NumPy, a Python loop": lambda: loop(in_numpy, x, t, p),
        "JAX, the batch at once": lambda: one(xj, tj, *pj),
        "JAX, a compiled loop (scan)": lambda: scanned(xj, tj, *pj),
        "JAX, a Python loop": lambda: loop(one, xj, tj, pj),
    }, 5)  # fmt: skip
    return {"milliseconds": found, "largest_difference": float(gap), "batch": n}


def draw(layout: dict, looped: dict) -> Any:
    n = looped["batch"]
    title = f"784-128-10, one step on {n} images: same gradient, other times"
    figure, (left, right) = panels(2, width=4.7, height=3.9, title=title)
    columns = [name for name in layout["milliseconds"] if name.endswith("columns")]
    bars(left, layout["milliseconds"], "milliseconds (log scale)",
         "rows (N, I), columns (I, N)", log=True, marked=columns)  # fmt: skip
    loops = [name for name in looped["milliseconds"] if "loop" in name]
    bars(right, looped["milliseconds"], "milliseconds (log scale)",
         "at once, or one by one (a loop)", log=True, marked=loops)  # fmt: skip
    return figure
