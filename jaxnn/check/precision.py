"""How far a gradient in mixed precision is from the one in float32."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxnn import programs
from jaxnn.check.compare import Comparison
from jaxnn.check.recorder import named_leaves
from jaxnn.check.tolerance import as_float64, cosine
from jaxnn.layers import Layer
from jaxnn.losses import Loss
from jaxnn.rules.products import policy

WHOLE = "all of them"


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
