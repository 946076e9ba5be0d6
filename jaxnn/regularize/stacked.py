"""Weights of a `stack`: one array, many layers."""

from collections.abc import Callable

import jax


def per_layer(function: Callable, axes: int) -> Callable:
    """`function` of a weight for one that has so many axes of layers in front.

    The norms of a layer's weight, say, are its own, whatever it is stacked with.
    """
    for _ in range(axes):
        function = jax.vmap(function)
    return function
