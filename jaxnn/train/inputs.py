"""What `fit`, `evaluate` and `predict` are given, checked before they compile."""

from collections.abc import Callable
from functools import lru_cache, partial
from numbers import Real
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.arrays import as_array, as_rows, is_whole
from jaxnn.errors import JaxnnError
from jaxnn.layers import Layer
from jaxnn.losses import LOSSES
from jaxnn.losses.outputs import YES_NO

MANY = (list, tuple, range, np.ndarray, jax.Array)
"""How several seeds are given."""


def as_targets(y: Any, where: str, what: str) -> Any:
    """Targets as an array; bools as the labels 0 and 1.

    Raises:
      JaxnnError: no array of numbers, or whole ones that int32, JAX's own, cannot hold.
    """
    y = as_rows(y, where, what)
    if jnp.issubdtype(y.dtype, jnp.integer):
        ends, most = (int(y.min()), int(y.max())), np.iinfo(np.int32).max
        if max(ends[1], -ends[0]) > most:
            raise JaxnnError(
                f"{where}: got {what} from {ends[0]} to {ends[1]}, expected labels up "
                f"to {most:,}"
            )
    return y.astype(np.int32) if y.dtype == bool and y.ndim == 1 else y


def data_pair(pair: Any, where: str, name: str) -> tuple[Any, Any]:
    """x and y of one length, at least 1, all finite.

    Raises:
      JaxnnError: anything else.
    """
    try:
        x, y = pair
    except (TypeError, ValueError):
        raise JaxnnError(f"{where}: {name} must be a pair (x, y)") from None
    x, y = as_array(x, where, f"{name} x"), as_array(y, where, f"{name} y")
    counts = [len(a) if a.ndim else 0 for a in (x, y)]
    if counts[0] != counts[1] or not counts[0]:
        raise JaxnnError(
            f"{where}: {name} has {counts[0]} inputs and {counts[1]} targets, expected "
            "the same number, at least 1"
        )
    for part, a in (("x", x), ("y", y)):
        a = np.asarray(a)
        if jnp.issubdtype(a.dtype, jnp.floating) and not np.isfinite(a).all():
            bad = np.argwhere(~np.isfinite(a))
            first = tuple(map(int, bad[0]))
            raise JaxnnError(
                f"{where}: {name} {part} has {len(bad)} non-finite values, the first "
                f"at index {first}; remove or replace those rows"
            )
    return x, as_targets(y, where, f"{name} y")


def same_scale(x: Any, other: Any, where: str) -> None:
    """Raise if one holds pixels 0..255 as bytes and the other as floats."""
    pair = {"data": x, "validation": other}
    for (name, a), (rest, b) in (pair.items(), reversed(pair.items())):
        if a.dtype != np.uint8 or not jnp.issubdtype(b.dtype, jnp.floating):
            continue
        # of most rows: one bad row is the guard's; what noise adds stays below 2
        largest = float(np.median(np.asarray(b).reshape(len(b), -1).max(-1)))
        if largest > 2:
            raise JaxnnError(
                f"{where}: {name} x are uint8 pixels, which become [0, 1], but {rest} "
                f"x are floats, mostly up to {largest:g}; divide those by 255, or give "
                "uint8"
            )


def check_targets(
    where: str, y: Any, out_shape: tuple[int, ...], loss: Callable
) -> None:
    """Raise unless targets y (N, ...) fit outputs `out_shape` (without N) and the loss.

    Labels are looked at on the host: under jit a label that the network has no output
    for could only become a NaN. A loss that is not ours knows what it takes.
    """
    name = _our_name(loss)
    if name is None or y.shape[1:] == out_shape:
        return
    wanted = f"labels {(len(y), *out_shape[:-1])}"
    if y.shape[1:] != out_shape[:-1]:
        outputs = len(y), *out_shape
        raise JaxnnError(
            f"{where} has targets {y.shape}, but the network's outputs are {outputs}: "
            f"expected {wanted} or rows {outputs}. Does x have the shape that "
            "the network was meant for?"
        )
    if not jnp.issubdtype(y.dtype, jnp.integer):
        raise JaxnnError(
            f"{where} has targets {y.shape} of {y.dtype}, but labels must be whole "
            "numbers: y.astype(int); for real values give them an axis, y[:, None]"
        )
    labels = np.asarray(y)
    answers = name in YES_NO and out_shape[-1] == 1
    many = 2 if answers else out_shape[-1]
    least = -1 if answers and name == "hinge" else 0  # hinge's no may be -1 too
    bad = np.argwhere((labels < least) | (labels >= many))
    if len(bad):
        first = tuple(map(int, bad[0]))
        at = first[0] if len(first) == 1 else first
        more = "; for real values give them an axis, y[:, None]" if many == 1 else ""
        raise JaxnnError(
            f"{where} has label {labels[first]} at index {at}, but the network has "
            f"{out_shape[-1]} outputs: labels must be 0 to {many - 1}{more}"
        )


def check_params(
    where: str, net: Any, params: Any, state: Any, x: Any, seeds: bool
) -> None:
    """Raise unless params and state are of `net`, stacked if `seeds` says so."""
    if not isinstance(net, Layer):
        raise JaxnnError(
            f"{where}: got a network of type {type(net).__name__}, expected a Layer "
            "such as mlp([784, 10])"
        )
    want = _expected(net, x.shape[1:])
    for what, got, expected in zip(
        ("params", "state"), (params, state), want, strict=True
    ):
        if jax.tree.structure(got) != jax.tree.structure(expected):
            raise JaxnnError(
                f"{where}: got {what} that are not of this network; expected them as "
                "its init or fit gives them"
            )
        axes = [
            jnp.ndim(a) - e.ndim
            for a, e in zip(*map(jax.tree.leaves, (got, expected)), strict=True)
        ]
        if seeds and not all(n == 1 for n in axes):
            raise JaxnnError(
                f"{where}: got seeds=True, but {what} have no leading axis of seeds; "
                "leave seeds out for a single network"
            )
        if not seeds and any(axes):
            raise JaxnnError(
                f"{where}: got {what} of several seeds side by side; expected those of "
                "one, jax.tree.map(lambda a: a[0], params), or seeds=True"
            )


def seed_list(seeds: Any) -> list[int]:
    """The seeds of `fit`, one or several.

    Raises:
      JaxnnError: none, or one that is no whole number from 0 to 2^32 - 1.
    """
    found = list(seeds) if isinstance(seeds, MANY) else [seeds]
    if not found:
        raise JaxnnError("fit: got seeds=[], expected at least one seed")
    for seed in found:
        if not is_whole(seed, 0) or int(seed) >= 2**32:
            raise JaxnnError(
                f"fit: got seeds={seeds!r}, expected whole numbers from 0 to 2^32 - 1: "
                "one, or a list of them"
            )
    return found


def check_count(where: str, name: str, value: Any) -> None:
    """Raise unless `value` is a whole number of at least 1."""
    if not is_whole(value):
        raise JaxnnError(
            f"{where}: got {name}={value!r}, expected at least 1, a whole number"
        )


def check_number(where: str, name: str, value: Any) -> None:
    """Raise unless `value` is one number."""
    if isinstance(value, bool) or not (
        isinstance(value, Real) or (isinstance(value, jax.Array) and value.ndim == 0)
    ):
        raise JaxnnError(f"{where}: got {name}={value!r}, expected a number")


def check_kind(where: str, name: str, value: Any, *kinds: type) -> None:
    """Raise unless `value` is of one of the `kinds`, or None."""
    if value is not None and not isinstance(value, kinds):
        raise JaxnnError(
            f"{where}: got {name}={value!r}, expected a "
            f"{' or '.join(kind.__name__ for kind in kinds)}"
        )


def check_loss(where: str, loss: Any) -> None:
    """Raise unless `loss` is a function."""
    if not callable(loss):
        raise JaxnnError(
            f"{where}: got loss={loss!r}, expected a function; LOSSES has ours by name"
        )


def check_functions(where: str, **given: Any) -> None:
    """Raise unless each is a function or None."""
    for name, value in given.items():
        if value is not None and not callable(value):
            raise JaxnnError(f"{where}: got {name}={value!r}, expected a function")


@lru_cache(maxsize=64)
def _expected(net, in_shape):
    def init(key):
        return net.init(key, in_shape)[:2]

    return jax.eval_shape(init, jax.random.key(0))


def _our_name(loss) -> str | None:
    while isinstance(loss, partial):
        loss = loss.func
    return next((name for name, ours in LOSSES.items() if ours is loss), None)
