"""Trees: which leaves are weights, which lie in a stack; arrays in batches."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from jaxnn.errors import JaxnnError

STACKED = "stacked"
"""The name under which `stack` keeps the parameters of its layers, in one array."""

BATCH = 500  # images a call, in every command: random starts depend on it

Mask = Any | Callable[[Any], Any] | None
"""A tree of bools like the parameters, a function that makes it of them, or None."""


def weights(params: Any, mask: Mask = None) -> Any:
    """A tree like `params` of True for weights, False for biases, gammas and betas.

    What penalties, weight decay, projections and weight noise act on. Weights are the
    leaves called w: "w", "u" (of recurrent layers, on the state) or "w_" and more. A
    matrix by another name would be left out unseen, so it is an error.

    Args:
      params: parameters, or what has their structure: gradients, updates.
      mask: says it instead of the names.

    Raises:
      JaxnnError: a leaf of two axes or more whose name does not say what it is; a mask
        of another structure.

    >>> import jax.numpy as jnp
    >>> weights({"w": jnp.ones((2, 3)), "b": jnp.ones(3)})
    {'b': False, 'w': True}
    """
    if mask is not None:
        found = mask(params) if callable(mask) else mask
        if jax.tree.structure(found) != jax.tree.structure(params):
            raise JaxnnError(
                f"weights: got a mask of structure {jax.tree.structure(found)}, "
                f"expected that of the parameters, {jax.tree.structure(params)}"
            )
        return found
    return jax.tree_util.tree_map_with_path(_is_weight, params)


def stacked_axes(params: Any) -> list[int]:
    """For each leaf of a params tree, how many leading axes `stack` has added.

    So the norm of a weight in a stack (depth, inputs, units) is that of each layer.

    >>> import jax.numpy as jnp
    >>> stacked_axes({"stacked": {"b": jnp.zeros((12, 4))}})
    [1]
    """
    paths = jax.tree_util.tree_leaves_with_path(params)
    return [_stacked(path) for path, _ in paths]


def map_weights(function: Callable, params: Any, mask: Mask = None) -> Any:
    """`params` with `function(w, axes, i)` for the weights, leaf by leaf.

    `axes` is the number of leading axes of layers in a stack, i counts all leaves.
    """
    leaves, structure = jax.tree.flatten(params)
    marks = jax.tree.leaves(weights(params, mask))
    return structure.unflatten(
        function(w, axes, i) if mark else w
        for i, (w, axes, mark) in enumerate(
            zip(leaves, stacked_axes(params), marks, strict=True)
        )
    )


def per_layer(function: Callable, axes: int) -> Callable:
    """`function` of a weight for one that has so many axes of layers in front.

    The norms of a layer's weight, say, are its own, whatever it is stacked with.
    """
    for _ in range(axes):
        function = jax.vmap(function)
    return function


def _is_weight(path, leaf) -> bool:
    name = getattr(path[-1], "key", None) if path else None
    if isinstance(name, str) and (name in ("w", "u") or name.startswith("w_")):
        return True
    if leaf.ndim - _stacked(path) >= 2:
        raise JaxnnError(
            f"weights: the leaf {jax.tree_util.keystr(path) or 'itself'} of shape "
            f"{leaf.shape} may be a weight, but its name does not say so; call it 'w' "
            "in a dict, or give mask=, a tree of bools like the parameters"
        )
    return False


def _stacked(path) -> int:
    return path.count(jax.tree_util.DictKey(STACKED))


def in_turn(
    function: Callable[[Any, Any], Any], items: Sequence[Any], shared: Any = None
) -> Iterator[tuple[int, Any]]:
    """Give (number of the item, `function(shared, item)`) of one item after the other.

    Whatever else runs such tasks, `jaxnn.tasks.run_tasks`, may give them in any order.
    """
    for number, item in enumerate(items):
        yield number, function(shared, item)


def map_batches(
    function: Callable, *arrays: Any, batch: int | None = None, run: Callable = in_turn
) -> Any:
    """`function(*batches)` over all rows, every call of one shape, the last one padded.

    >>> map_batches(lambda x: 2 * x, np.arange(5), batch=2)
    array([0, 2, 4, 6, 8], dtype=int32)

    Args:
      function: for example `lambda x, y: fgsm(model, x, y, epsilon=0.1)`.
      arrays: of one length, at least one row.
      batch: rows a call, so many even if there are fewer; None is 500 at most.
      run: what runs the calls; `jaxnn.tasks.run_tasks` if it may be a cluster.

    Returns:
      What the calls returned, as NumPy arrays of all rows.
    """
    count = len(arrays[0])
    if not count:
        raise JaxnnError("map_batches: got no rows, expected at least one")
    size = min(BATCH, count) if batch is None else batch
    starts = range(0, count, size)
    found = dict(run(_of_batch, starts, (function, arrays, size)))
    parts = [found[number] for number in range(len(starts))]
    return jax.tree.map(lambda *parts: np.concatenate(parts), *parts)


def _of_batch(shared, start):
    function, arrays, size = shared
    count = len(arrays[0])
    rows = np.minimum(np.arange(start, start + size), count - 1)
    made = jax.device_get(function(*(jax.device_put(a[rows]) for a in arrays)))
    return jax.tree.map(lambda a: a[: count - start], made)
