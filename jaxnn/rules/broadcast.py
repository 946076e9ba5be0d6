"""Broadcasting, written out once: arguments spread forward, cotangents summed back."""

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.errors import JaxnnError


def spread(name: str, *args) -> list[Array]:
    """The arguments of the rule `name`, all viewed in their common NumPy shape.

    Python numbers are arguments too; they stay weakly typed, so that `x + 1` keeps
    the dtype of x.

    Raises:
      JaxnnError: shapes that do not broadcast.
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


def unbroadcast(d: Array, like) -> Array | None:
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


def unbroadcast_all(cotangents: tuple[Array, ...], outlines) -> tuple:
    """`unbroadcast` each of `cotangents` to the argument that its outline is of."""
    if not outlines:
        return cotangents
    likes = [jax.ShapeDtypeStruct(o.shape[1:], o.dtype) for o in outlines]
    return tuple(
        unbroadcast(d, like) for d, like in zip(cotangents, likes, strict=True)
    )


def if_used(dy: Array, d: Array) -> Array:
    """d, but 0 where dy is 0.

    An output that nobody used sends nothing back, whatever the slope. At a pole the
    product would be 0 * inf = NaN, and a `where` that has put log(0) aside would send
    that NaN into every parameter (the "double where" problem). No NaN is hidden: one
    in dy passes, and one in the arguments is in y already.
    """
    return jnp.where(dy == 0, 0, d)
