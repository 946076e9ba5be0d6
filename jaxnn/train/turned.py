"""How weight matrices lie in memory while the loop runs on a CPU: transposed.

A dense layer's w is (inputs, outputs), as one writes x w. Where the outputs are the
fewer, a CPU multiplies faster if each output's weights lie together: x w reads along
the rows of w^T, and dy^T x is made as w^T lies, without a copy that transposes it. So
the loop keeps those matrices, and what the optimizer keeps of them, transposed, and
everything else sees w as it is: a transpose that is only read costs nothing.
"""

from dataclasses import dataclass
from typing import Any

import jax
from jax import Array

from jaxnn.rules.products import few_outputs


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Turned:
    """A matrix a, kept as its transpose."""

    transpose: Array


def turned(tree: Any) -> Any:
    """`tree` with every dense weight of few outputs as a `Turned`.

    A dense weight is a matrix under the name "w", in the parameters as in the moments
    and averages that copy their structure. Few: `jaxnn.rules.products.few_outputs`.
    """

    def turn(path, a):
        name = getattr(path[-1], "key", None) if path else None
        if name == "w" and a.ndim == 2 and few_outputs(*a.shape):
            return Turned(a.T)
        return a

    return jax.tree.map_with_path(turn, tree)


def straight(tree: Any) -> Any:
    """`tree` with every `Turned` as the matrix it stands for."""

    def one(a):
        return a.transpose.T if isinstance(a, Turned) else a

    return jax.tree.map(one, tree, is_leaf=lambda a: isinstance(a, Turned))


def as_kept(tree: Any, like: Any) -> Any:
    """`tree` turned if the state `like` is."""
    leaves = jax.tree.leaves(like, is_leaf=lambda a: isinstance(a, Turned))
    return turned(tree) if any(isinstance(a, Turned) for a in leaves) else tree
