"""The record that every derivative in jaxnn is written as, and what rules share."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.errors import JaxnnError


class Rule(NamedTuple):
    """One differentiable operation, forward and backward side by side.

    Attributes:
      name: what `RULES` and error messages call it.
      fwd: `(*args) -> (y, cache)`; the cache holds what `bwd` needs, no more.
      bwd: `(cache, dy) -> cotangents`, a tuple with one entry per argument of `fwd`,
        `None` for an argument without a derivative (a mask, labels).

    Arguments of one floating type give y and cotangents of that type; sums that would
    lose digits in it are made in float32. Whole numbers are indices or masks, never
    values.

    A rule knows nothing of parameters, state or randomness: `jaxnn.layers` binds it
    to those, `jaxnn.interop` hands it to other libraries.

    >>> from jaxnn.rules import relu
    >>> import jax.numpy as jnp
    >>> y, cache = relu.fwd(jnp.array([-1.0, 0.0, 2.0]))
    >>> relu.bwd(cache, jnp.ones(3))[0].tolist()
    [0.0, 0.0, 1.0]
    """

    name: str
    fwd: Callable[..., tuple[Array, Any]]
    bwd: Callable[[Any, Array], tuple[Array | None, ...]]

    def __reduce__(self) -> tuple:
        """Pickle a registered rule by its name: its functions may be local ones."""
        known = RULES.get(self.name) is self
        return (_registered, (self.name,)) if known else (Rule, tuple(self))


def _registered(name):
    return RULES[name]


RULES: dict[str, Rule] = {}
"""Every rule by name, those with settings at their defaults."""


def register(*rules: Rule) -> None:
    """Enter rules in `RULES`: the graph, `compare` and others know them by name."""
    RULES.update((rule.name, rule) for rule in rules)


def keeps_x(name: str, f: Callable, back: Callable[[Array, Array], Array]) -> Rule:
    """The rule y = f(x), dx = back(x, dy).

    >>> cube = keeps_x("cube", lambda x: x**3, lambda x, dy: 3 * dy * x**2)
    """
    return Rule(name, lambda x: (f(x), x), lambda x, dy: (back(x, dy),))


def keeps_y(name: str, f: Callable, back: Callable[[Array, Array], Array]) -> Rule:
    """The rule y = f(x), dx = back(y, dy): the next layer keeps y anyway."""

    def fwd(x):
        y = f(x)
        return y, y

    return Rule(name, fwd, lambda y, dy: (back(y, dy),))


def last_axis(v: Array, ndim: int) -> Array:
    """View v (C,) as (1, ..., 1, C) with `ndim` axes: broadcasting written out."""
    return v.reshape((1,) * (ndim - 1) + v.shape)


def if_used(dy: Array, d: Array) -> Array:
    """d, but 0 where dy is 0.

    An output that nobody used sends nothing back, whatever the slope. At a pole the
    product would be 0 * inf = NaN, and a `where` that has put log(0) aside would send
    that NaN into every parameter (the "double where" problem). No NaN is hidden: one
    in dy passes, and one in the arguments is in y already.
    """
    return jnp.where(dy == 0, 0, d)


def outline(a) -> Array:
    """The shape and dtype of `a` as an array of no elements, (0, *shape).

    Caches hold arrays only, so this is how a shape travels where the values are not
    needed on the way back.
    """
    return jnp.empty((0, *jnp.shape(a)), jnp.asarray(a).dtype)


def outlines(*args) -> tuple[Array, ...]:
    """`outline` of each, or () if all are alike: then dy itself tells."""
    drawn = tuple(map(outline, args))
    return () if len({(o.shape, o.dtype) for o in drawn}) == 1 else drawn


def broadcast(name: str, *args) -> list[Array]:
    """The arguments of the rule `name`, all viewed in their common NumPy shape.

    Python numbers are arguments too; they stay weakly typed, so that `x + 1` keeps
    the dtype of x.
    """
    arrays = [jnp.asarray(a) for a in args]
    try:
        shape = jnp.broadcast_shapes(*(a.shape for a in arrays))
    except ValueError:
        raise JaxnnError(
            f"{name}: shapes {' and '.join(str(a.shape) for a in arrays)} do not fit; "
            "expected equal axes, or size 1 where they differ, counted from the last"
        ) from None
    return [jnp.broadcast_to(a, shape) for a in arrays]


def unbroadcast(d: Array, like: Any) -> Array | None:
    """Sum d to the shape of the argument `like`, in its dtype; None if not float.

    An element that was spread over many places had a part in each of them, so its
    cotangent is the sum of theirs. NumPy adds axes in front and stretches axes of
    size 1: these are what is summed.
    """
    if not jnp.issubdtype(like.dtype, jnp.floating):
        return None
    added = d.ndim - len(like.shape)
    stretched = [i for i in range(added, d.ndim) if like.shape[i - added] != d.shape[i]]
    if added or stretched:
        d = d.sum((*range(added), *stretched)).reshape(like.shape)
    return d.astype(like.dtype)


def unbroadcast_all(cotangents: tuple[Array, ...], outlines) -> tuple:
    """`unbroadcast` each of `cotangents` to the argument that its outline is of."""
    if not outlines:
        return cotangents
    likes = [jax.ShapeDtypeStruct(o.shape[1:], o.dtype) for o in outlines]
    return tuple(map(unbroadcast, cotangents, likes))
