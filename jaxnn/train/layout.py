"""How weight matrices lie in memory while the loop runs on a CPU: transposed.

A dense layer's w is (inputs, outputs), as one writes x w. Where the outputs are the
fewer, a CPU multiplies faster if each output's weights lie together: x w reads along
the rows of w^T, and dy^T x is made as w^T lies, without a copy that transposes it. So
the loop keeps those matrices, and what the optimizer keeps of them, transposed, and
everything else sees w as it is: a transpose that is only read costs nothing.

A dense weight is a matrix under the name "w", in the parameters as in the moments and
averages that copy their structure.
"""

from dataclasses import dataclass
from typing import Any

import jax
from jax import Array

from jaxnn.rules.products import few_outputs
from jaxnn.train.state import TrainState

DENSE = (jax.tree_util.DictKey("w"),)
"""How the path of a dense weight ends."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Transposed:
    """A matrix a, kept as its transpose."""

    transpose: Array


def to_layout(tree: Any) -> Any:
    """Transpose every dense weight of few outputs (`rules.products.few_outputs`)."""
    return jax.tree.map_with_path(
        lambda path, a: (
            Transposed(a.T)
            if path[-1:] == DENSE and a.ndim == 2 and few_outputs(*a.shape)
            else a
        ),
        tree,
    )


def from_layout(tree: Any) -> Any:
    """Return every `Transposed` of `tree` as the matrix it stands for."""
    return jax.tree.map(
        lambda a: a.transpose.T if isinstance(a, Transposed) else a,
        tree,
        is_leaf=lambda a: isinstance(a, Transposed),
    )


def layout_of(like: Any, tree: Any) -> Any:
    """Bring `tree` into the layout that the state `like` is in."""
    leaves = jax.tree.leaves(like, is_leaf=lambda a: isinstance(a, Transposed))
    turned = any(isinstance(a, Transposed) for a in leaves)
    return to_layout(tree) if turned else tree


def state_to_layout(ts: TrainState) -> TrainState:
    """Bring parameters, optimizer's state and average into the layout of the loop."""
    params, opt, ema = to_layout((ts.params, ts.opt, ts.ema))
    return ts._replace(params=params, opt=opt, ema=ema)


def seed_axes(stacked: Any) -> Any:
    """Where the axis of the networks side by side lies, for each leaf.

    Second in a dense weight, (I, S, O), so that one product with (I, S * O) serves all
    of them without a copy.
    """
    return jax.tree.map_with_path(
        lambda path, a: 1 if path[-1:] == DENSE and a.ndim == 3 else 0, stacked
    )
