"""What should the forward pass keep for the way back? Bytes against time.

The derivative of h = tanh(z) is 1 - tanh(z)^2 = 1 - h^2. So a layer h = tanh(x w + b)
can be built in three ways; its backward pass needs x, w and the slope of tanh:

    keep the output    h, and the slope is 1 - h^2. h costs nothing extra: it is the x
                       of the next layer, which must be kept anyway (for dw = x^T dz)
    keep the input     z as well as h: twice the bytes, and tanh is calculated again
    recompute          keep every fourth h only; on the way back run each group of
                       four layers forward again: fewer bytes, and one forward pass
                       more (about a third of the work of a step)

Measured in NumPy, which does what it is told, and in XLA, the compiler behind
`jax.jit`, which does not: it sees that tanh(z) is calculated twice, does it once and
throws z away. What your code keeps is then a wish; ask the compiled program.
"""

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.choices import milliseconds
from experiments.pictures import bars
from jaxnn import Layer, remat, rules, serial, stack
from jaxnn.layers import dense, pointwise
from jaxnn.plots.panels import panels

DEPTH, GROUP = 16, 4
WAYS = ("keep the output", "keep the input", "recompute")


def forward(ws: list, h: np.ndarray, way: str) -> tuple[np.ndarray, list]:
    """Through the layers ws; the last h, and for each layer what it keeps."""
    kept = []
    for w in ws:
        x, z = h, h @ w
        h = np.tanh(z)
        kept.append((x, z) if way == "keep the input" else (x, h))
    return h, kept


def backward(ws: list, kept: list, dh: np.ndarray, way: str) -> tuple[list, np.ndarray]:
    """dw of each of these layers, and what arrives at their input."""
    dws = []
    for w, (x, z_or_h) in zip(reversed(ws), reversed(kept), strict=True):
        h = np.tanh(z_or_h) if way == "keep the input" else z_or_h
        dz = dh * (1 - h * h)
        dws.append(x.T @ dz)
        dh = dz @ w.T
    return dws[::-1], dh


def in_numpy(way: str, ws: list, x: np.ndarray, dh: np.ndarray) -> tuple[list, int]:
    """dw of every layer, and the most bytes that were kept at a time."""
    if way != "recompute":
        _, kept = forward(ws, x, way)
        return backward(ws, kept, dh, way)[0], bytes_of(kept)
    starts, groups = [x], [ws[i : i + GROUP] for i in range(0, len(ws), GROUP)]
    for group in groups[:-1]:
        starts.append(forward(group, starts[-1], way)[0])
    dws: list = []
    kept: list = []
    for group, start in zip(reversed(groups), reversed(starts), strict=True):
        _, kept = forward(group, start, way)
        some, dh = backward(group, kept, dh, way)
        dws = some + dws
    return dws, bytes_of([starts, kept])


def bytes_of(kept: list) -> int:
    """Bytes of all arrays in `kept`; one that is there twice is counted once."""
    arrays = {id(a): a.nbytes for a in jax.tree.leaves(kept)}
    return sum(arrays.values())


keeps_input = rules.keeps_x(
    "tanh that keeps z", jnp.tanh, lambda z, dh: dh * (1 - jnp.tanh(z) ** 2)
)


def networks(width: int) -> dict[str, Layer]:
    """The same three ways in jaxnn. `rules.tanh` keeps its output."""

    def layer(rule):
        return serial(dense(width, "xavier", bias=False), pointwise(rule))

    group = serial(*(layer(rules.tanh) for _ in range(GROUP)))
    return {
        "keep the output": serial(*(layer(rules.tanh) for _ in range(DEPTH))),
        "keep the input": serial(*(layer(keeps_input) for _ in range(DEPTH))),
        "recompute": stack(remat(group), DEPTH // GROUP),
    }


def in_xla(net: Layer, x, dh) -> tuple[float, Callable]:
    """Megabytes of working memory of the compiled gradient, and a call of it."""
    params, state, _ = net.init(jax.random.key(0), x.shape[1:])

    def gradient(params, x, dh):
        _, _, cache = net.forward(params, state, x, train=True)
        return net.backward(cache, dh)[1]

    program = jax.jit(gradient).lower(params, x, dh).compile()
    memory = program.memory_analysis()
    assert memory is not None, "XLA for CPU and GPU says how much memory it needs"
    return memory.temp_size_in_bytes / 1e6, lambda: program(params, x, dh)


def measure(args: Any) -> tuple[dict, dict]:
    rng = np.random.default_rng(0)
    width, batch = args.width, args.rows
    x, dh = rng.normal(size=(2, batch, width)).astype(np.float32)
    ws = list(rng.normal(0, width**-0.5, (DEPTH, width, width)).astype(np.float32))
    found, calls, first = {}, {}, None
    for way, net in networks(width).items():
        dws, size = in_numpy(way, ws, x, dh)
        first = dws if first is None else first
        pairs = zip(first, dws, strict=True)
        same = all(np.allclose(a, b, atol=1e-4) for a, b in pairs)
        assert same, "what is kept must not change the gradients"
        megabytes, calls[f"{way}, XLA"] = in_xla(net, jnp.asarray(x), jnp.asarray(dh))
        calls[f"{way}, NumPy"] = partial(in_numpy, way, ws, x, dh)
        found[way] = {"numpy_megabytes": size / 1e6, "xla_megabytes": megabytes}
        print(f"  {way:<18} kept in NumPy {size / 1e6:.1f} MB, XLA {megabytes:.1f} MB")
    times = milliseconds(calls, 7)
    for way, (word, where) in product(WAYS, (("numpy", "NumPy"), ("xla", "XLA"))):
        found[way][f"{word}_milliseconds"] = times[f"{way}, {where}"]
    return found, {"keeping.png": draw(found, width, batch)}


def draw(found: dict, width: int, batch: int) -> Any:
    title = (
        f"What the way back needs: {DEPTH} layers of {width} tanh units, batch {batch}"
    )
    figure, axes = panels(2, width=4.7, height=3.9, title=title)
    for ax, unit, name in zip(
        axes, ("megabytes", "milliseconds"),
        ("kept in memory (megabytes)", "forward and backward (milliseconds)"),
        strict=True,
    ):  # fmt: skip
        values = {
            f"{way}, {words}": found[way][f"{where}_{unit}"]
            for where, words in (("numpy", "NumPy"), ("xla", "XLA"))
            for way in WAYS
        }
        marked = [n for n in values if n.endswith("XLA")]
        bars(ax, values, name, form=".1f", marked=marked)
    return figure
