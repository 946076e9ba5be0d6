"""What is measured of a whole gradient: step sizes, curvature, precision, costs.

Derivatives are along random directions with entries of size 1, so a step h moves every
parameter and input by about h; of several directions the median, since in a network of
relus some unit is near its kink along most of them. Everything is plain numbers, for
tables and pictures.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn import programs
from jaxnn.check.adapters import automatic
from jaxnn.check.compare import Comparison
from jaxnn.check.methods import (
    complex_step,
    hessian_vector,
    inner,
    largest_eigenvalue,
    move,
    random_direction,
    taylor_slope,
)
from jaxnn.check.recorder import full_precision, named_leaves
from jaxnn.check.tolerance import DTYPES, as_float64, cosine
from jaxnn.errors import JaxnnError
from jaxnn.layers import Layer
from jaxnn.losses import Loss
from jaxnn.rules.products import policy

STEPS = tuple(float(h) for h in np.logspace(-1, -13, 25))
TAYLOR_STEPS = tuple(float(h) for h in np.logspace(-4, -6.5, 11))
DIRECTIONS = 3
OFF = 0.01  # how wrong the gradient is that is drawn for comparison
WHOLE = "all of them"


def difference_errors(case: Comparison) -> dict[str, list[float | None]]:
    """Error of finite differences for each of `STEPS`: the V, and the flat line.

    Truncation falls with h (one-sided) or h^2 (central), rounding grows with 1 / h; the
    complex step takes no difference, so nothing rounds however small h is. Errors are
    relative to the gradient's length; None where an operation takes no complex number.
    """

    def by_complex_step(f, x, v, step):
        return jnp.stack([complex_step(f, x, v, step)])

    def by_differences(f, x, v, step):  # central and one-sided, of the same runs
        ahead, behind = f(move(x, step, v)), f(move(x, -step, v))
        return jnp.stack([(ahead - behind) / (2 * step), (ahead - f(x)) / step])

    with full_precision():
        f, at = case.scalar("float64")
        gradient = programs.ahead(None, jax.grad(f), at)(at)
        length = float(np.sqrt(inner(gradient, gradient))) or 1.0
        truth = [
            inner(gradient, random_direction(gradient, d)) for d in range(DIRECTIONS)
        ]
        slopes = np.array(truth, float)[:, None, None]
        found: dict[str, list[float | None]] = {}
        for way, dtype, names in (
            (by_complex_step, "float64", ["complex step"]),
            (by_differences, "float64", ["central", "one-sided"]),
            (by_differences, "float32", ["central"]),
        ):
            values = _over_steps(*case.scalar(dtype), way, dtype, STEPS)
            for i, name in enumerate(names):
                found[f"{name}, {dtype}"] = [None] * len(STEPS)
                if values is not None:
                    gaps = np.abs(values - slopes)[:, :, i] / length
                    found[f"{name}, {dtype}"] = np.median(gaps, axis=0).tolist()
    return found


def taylor_errors(case: Comparison) -> dict[str, Any]:
    """Taylor remainders with the hand-written gradient, and with a wrong one.

    Returns:
      `steps`, `remainders` by the hand-written gradient, `wrong` by one that is a
      percent too large, and their `slope` and `wrong_slope`: 2 and 1 if all is well.
    """
    with full_precision():
        f, at = case.scalar("float64")
        here = case.at("float64")
        gradient = programs.ahead(None, case.manual, *here)(*here)
        vs = [random_direction(at, d) for d in range(DIRECTIONS)]
        slopes = np.array([inner(gradient, v) for v in vs], float)
        start = float(programs.ahead(None, f, at)(at))
        rises = _over_steps(
            lambda x: f(x) - start, at, lambda f, x, v, h: f(move(x, h, v)),
            "float64", TAYLOR_STEPS,
        )  # fmt: skip
    steps = np.array(TAYLOR_STEPS)
    assert rises is not None
    found: dict[str, Any] = {"steps": list(TAYLOR_STEPS)}
    floor = 100 * float(jnp.finfo(jnp.float64).eps) * max(abs(start), 1e-30)
    for name, slope_name, factor in (
        ("remainders", "slope", 1.0),
        ("wrong", "wrong_slope", 1 + OFF),
    ):
        each = np.abs(rises - steps * factor * slopes[:, None])
        found[name] = np.median(each, axis=0).tolist()
        found[slope_name] = taylor_slope(np.array(found[name]), list(steps), floor)
    return found


def _over_steps(f, at, way, dtype, steps) -> np.ndarray | None:
    """(directions, steps, ...) values of `way`, None if it cannot be traced."""
    steps = jnp.array(steps, DTYPES[dtype])

    def run(at, v):
        return jax.lax.map(lambda h: way(f, at, v, h), steps)

    vs = [random_direction(at, seed) for seed in range(DIRECTIONS)]
    try:
        program = programs.ahead(None, run, at, vs[0])
    except JaxnnError:
        return None
    return np.array([program(at, v) for v in vs], np.float64)


def curvature(case: Comparison, steps: int = 40) -> dict[str, float]:
    """Products with the Hessian by hand against JAX's, and its largest eigenvalue."""
    with full_precision():
        by_hand, by_jax = case.gradients("float64")
        params = case.at("float64")[0]
        v = random_direction(params)

        def both(p, v):
            return [hessian_vector(g, p, v) for g in (by_hand, by_jax)]

        a, b = map(jax.tree.leaves, programs.ahead(None, both, params, v)(params, v))
        size = max((float(jnp.abs(h).max(initial=0)) for h in b), default=0.0)
        gaps = (jnp.abs(h - k).max(initial=0) for h, k in zip(a, b, strict=True))
        gap = max(map(float, gaps), default=0.0)
    by_hand, _ = case.gradients("float32")
    args = case.at("float32")[0], jax.random.key(0)

    def sharpest(p, key):
        return largest_eigenvalue(by_hand, p, key, steps=steps, tolerance=1e-2)

    found = programs.ahead(None, sharpest, *args)(*args)
    return {
        "hessian_vector_error": gap / (size or 1.0),
        "largest_eigenvalue": float(found.value),
        "residual": float(found.residual),
        "products": int(found.steps),
    }


def compare_costs(case: Comparison, runs: int = 20) -> dict[str, dict[str, Any]]:
    """One gradient in float32, for parameters and input: "manual", and "automatic".

    The programs run in turn, so that a machine that slows down slows them all; the
    first run of each is not counted.

    Returns:
      Of each `seconds`: median of the runs; `compile_seconds`: tracing and compiling;
      `flops` by XLA's count, and `peak_bytes` that the program needs at once, arguments
      and results included, None where the device does not say; `residual_bytes`.
    """
    args = p, s, x, _, key = case.at("float32")
    kept = residual_bytes(case.net, p, s, x, key=key, train=case.train)
    compiled, found, seconds = {}, {}, {}
    for name, way in (("manual", case.manual), ("automatic", case.automatic)):
        start = time.perf_counter()
        compiled[name] = programs.ahead(None, way, *args)
        prepared, seconds[name] = time.perf_counter() - start, []
        found[name] = {"compile_seconds": prepared, "residual_bytes": kept[name]}
        found[name] |= _counts(compiled[name])
    for _ in range(runs + 1):
        for name, program in compiled.items():
            start = time.perf_counter()
            jax.block_until_ready(program(*args))
            seconds[name].append(time.perf_counter() - start)
    return {
        name: {"seconds": statistics.median(seconds[name][1:])} | cost
        for name, cost in found.items()
    }


def _counts(program) -> dict[str, float | int | None]:
    try:
        analysis, memory = program.cost_analysis(), program.memory_analysis()
    except (NotImplementedError, RuntimeError):
        analysis = memory = None
    analysis = analysis[0] if isinstance(analysis, list) else analysis or {}
    flops = float(analysis["flops"]) if "flops" in analysis else None
    peak = None if memory is None else int(
        memory.temp_size_in_bytes + memory.argument_size_in_bytes
        + memory.output_size_in_bytes - memory.alias_size_in_bytes
    )  # fmt: skip
    return {"flops": flops, "peak_bytes": peak}


def residual_bytes(
    net: Layer, params: Any, state: Any, x: Any, *, key: Any = None, train: bool = True
) -> dict[str, int]:
    """Bytes that "manual" and "automatic" keep between forward and backward.

    The cache of the network, and the residuals of `jax.vjp`; parameters, which both
    hold on to and which are there anyway, are not counted, nor is any array twice.
    """
    found = {}
    for name, way in (("manual", net), ("automatic", automatic(net))):

        def forward(params, state, x, way=way):
            cache = way.forward(params, state, x, key=key, train=train)[2]
            given = {id(a) for a in jax.tree.leaves((params, state))}
            kept = {id(a): a for a in jax.tree.leaves(cache) if id(a) not in given}
            return list(kept.values())

        shapes = jax.eval_shape(forward, params, state, x)
        found[name] = sum(a.size * a.dtype.itemsize for a in shapes)
    return found


class PrecisionError(NamedTuple):
    """One gradient array, with its products in another precision.

    Attributes:
      leaf: path in the params tree such as "1/w", "input", or `WHOLE`.
      cosine: of the angle to the array in float32.
      relative_norm: 2-norm of the difference, as a share of that in float32.
    """

    leaf: str
    cosine: float
    relative_norm: float


def compare_precision(
    net: Layer,
    loss: Loss,
    params: Any,
    state: Any,
    x: Any,
    y: Any,
    *,
    precision: str = "bfloat16",
    key: Any = None,
    train: bool = True,
    penalty: Callable | None = None,
) -> list[PrecisionError]:
    """Compare the gradient that `fit(precision=...)` takes with that in float32.

    Both are by hand: whether they are right is `compare_gradients`' question.

    Args:
      net, loss, params, state, x, y, key, train, penalty: as `compare_gradients` takes
        them.
      precision: of the products.

    Returns:
      An entry a leaf, and first one of all leaves but the input together.
    """
    case = Comparison(net, loss, params, state, x, y, key, train, penalty)
    return precision_errors(case, precision)


def precision_errors(case: Comparison, precision: str) -> list[PrecisionError]:
    """`compare_precision` of a case."""

    def both(*at):
        with policy(precision=precision):
            mixed = case.manual(*at)
        with policy(precision="float32"):
            return mixed, case.manual(*at)

    with jax.default_matmul_precision("highest"):
        at = case.at("float32")
        trees = jax.device_get(programs.ahead(None, both, *at)(*at))
    mixed, exact = (
        {path.removeprefix("params/"): as_float64(a) for path, a in named_leaves(tree)}
        for tree in trees
    )
    leaves = list(exact)
    for tree in (mixed, exact):
        weights = [tree[leaf].ravel() for leaf in leaves if leaf != "input"]
        tree[WHOLE] = np.concatenate(weights)
    found = []
    for leaf in (WHOLE, *leaves):
        a, b = mixed[leaf], exact[leaf]
        size, gap = np.linalg.norm(b), np.linalg.norm(a - b)
        share = float(gap / size) if size else float("inf" if gap else 0)
        found.append(PrecisionError(leaf, cosine(a, b), share))
    return found
