"""The whole network's derivative against step size, and to second order.

Along random directions with entries of size 1, so a step h moves every parameter and
input by about h; of several directions the median, since in a network of relus some
unit is near its kink along most of them. Everything is plain numbers, for pictures.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.check.job import Job
from jaxnn.check.measure import DTYPES
from jaxnn.check.methods import (
    complex_step,
    inner,
    move,
    random_direction,
    taylor_slope,
)
from jaxnn.check.second import hessian_vector, largest_eigenvalue
from jaxnn.errors import JaxnnError

STEPS = tuple(float(h) for h in np.logspace(-1, -13, 25))
TAYLOR_STEPS = tuple(float(h) for h in np.logspace(-4, -6.5, 11))
SLOPE = 1.9  # least slope of the Taylor remainder that passes
DIRECTIONS = 3
OFF = 0.01  # how wrong the gradient is that is drawn for comparison


def difference_errors(job: Job) -> dict[str, list[float | None]]:
    """Error of finite differences for each of `STEPS`: the V, and the flat line.

    Truncation falls with h (one-sided) or h^2 (central), rounding grows with 1 / h; the
    complex step takes no difference, so nothing rounds however small h is. Errors are
    relative to the gradient's length; None where an operation takes no complex number.
    """
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        f, at = job.scalar("float64")
        gradient = jax.jit(jax.grad(f))(at)
        length = float(np.sqrt(inner(gradient, gradient))) or 1.0
        truth = [inner(gradient, random_direction(gradient, d)) for d in _seeds()]
        slopes = np.array(truth, float)[:, None, None]
        found: dict[str, list[float | None]] = {}
        for way, dtype, names in (
            (_complex, "float64", ["complex step"]),
            (_both_differences, "float64", ["central", "one-sided"]),
            (_both_differences, "float32", ["central"]),
        ):
            values = _over_steps(*job.scalar(dtype), way, dtype)
            for i, name in enumerate(names):
                found[f"{name}, {dtype}"] = [None] * len(STEPS)
                if values is not None:
                    gaps = np.abs(values - slopes)[:, :, i] / length
                    found[f"{name}, {dtype}"] = np.median(gaps, axis=0).tolist()
    return found


def taylor_errors(job: Job) -> dict[str, Any]:
    """Taylor remainders with the hand-written gradient, and with a wrong one.

    Returns:
      `steps`, `remainders` by the hand-written gradient, `wrong` by one that is a
      percent too large, and their `slope` and `wrong_slope`: 2 and 1 if all is well.
    """
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        f, at = job.scalar("float64")
        gradient = jax.jit(job.manual)(*job.at("float64"))
        vs = [random_direction(at, d) for d in _seeds()]
        slopes = np.array([inner(gradient, v) for v in vs], float)
        start = float(jax.jit(f)(at))
        rises = _over_steps(lambda x: f(x) - start, at, _ahead, "float64", TAYLOR_STEPS)
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


def curvature(job: Job, steps: int = 40) -> dict[str, float]:
    """Products with the Hessian by hand against JAX's, and its largest eigenvalue."""
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        by_hand, by_jax = job.gradients("float64")
        params = job.at("float64")[0]

        @jax.jit
        def both(p, v):
            return [hessian_vector(g, p, v) for g in (by_hand, by_jax)]

        a, b = map(jax.tree.leaves, both(params, random_direction(params)))
        size = max((float(jnp.abs(h).max(initial=0)) for h in b), default=0.0)
        gaps = (jnp.abs(h - k).max(initial=0) for h, k in zip(a, b, strict=True))
        gap = max(map(float, gaps), default=0.0)
    by_hand, _ = job.gradients("float32")

    @jax.jit
    def sharpest(p, key):
        return largest_eigenvalue(by_hand, p, key, steps=steps, tolerance=1e-2)

    found = sharpest(job.at("float32")[0], jax.random.key(0))
    return {
        "hessian_vector_error": gap / (size or 1.0),
        "largest_eigenvalue": float(found.value),
        "residual": float(found.residual),
        "products": int(found.steps),
    }


def _seeds() -> range:
    return range(DIRECTIONS)


def _complex(f, x, v, step):
    return jnp.stack([complex_step(f, x, v, step)])


def _both_differences(f, x, v, step):
    """Central and one-sided, of the same runs."""
    ahead, behind = f(move(x, step, v)), f(move(x, -step, v))
    return jnp.stack([(ahead - behind) / (2 * step), (ahead - f(x)) / step])


def _ahead(f, x, v, step):
    return f(move(x, step, v))


def _over_steps(f, at, way, dtype, steps: Any = STEPS) -> np.ndarray | None:
    """(directions, steps, ...) values of `way`, None if it cannot be traced."""
    steps = jnp.array(steps, DTYPES[dtype])

    @jax.jit
    def run(at, v):
        return jax.lax.map(lambda h: way(f, at, v, h), steps)

    try:
        found = [run(at, random_direction(at, seed)) for seed in _seeds()]
    except JaxnnError:
        return None
    return np.array(found, np.float64)
