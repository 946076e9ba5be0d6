"""What `fit`, `evaluate` and `predict` are given, checked before they compile."""

import inspect
from collections.abc import Callable
from functools import lru_cache, partial
from numbers import Real
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.arrays import as_array, as_rows, is_float, is_whole
from jaxnn.errors import JaxnnError, first_line
from jaxnn.layers import Layer
from jaxnn.losses import Loss, RegisteredLoss, loss_by_name
from jaxnn.train.state import Weighted, float_type

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
    for could only become a NaN. A loss without `@loss` knows what it takes.
    """
    while isinstance(loss, partial):
        loss = loss.func
    if not isinstance(loss, RegisteredLoss):
        return
    if y.shape[1:] == out_shape:
        loss.check_rows(where, y)
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
    answers = loss.is_one_answer(out_shape[-1])
    many = 2 if answers else out_shape[-1]
    least = -1 if answers and loss.targets == "signs" else 0  # no may be -1, too
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
    want = init_shapes(net, x.shape[1:])[:2]
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


def check_counts(where: str, optional: bool = False, **given: Any) -> None:
    """Raise unless each is a whole number of at least 1, or None if `optional`."""
    for name, value in given.items():
        if not (is_whole(value) or (optional and value is None)):
            raise JaxnnError(
                f"{where}: got {name}={value!r}, expected at least 1, a whole number"
            )


def check_numbers(where: str, **given: Any) -> None:
    """Raise unless each is one number or None."""
    for name, value in given.items():
        scalar = isinstance(value, jax.Array) and value.ndim == 0
        number = scalar or isinstance(value, Real)
        if value is not None and (isinstance(value, bool) or not number):
            raise JaxnnError(f"{where}: got {name}={value!r}, expected a number")


def check_choice(where: str, name: str, value: Any, valid: tuple[str, ...]) -> None:
    """Raise unless `value` is one of the `valid` ones."""
    if value not in valid:
        raise JaxnnError(f"{where}: got {name}={value!r}; valid: {', '.join(valid)}")


def check_floating(where: str, dtype: Any) -> None:
    """Raise unless `dtype` is a floating type to train in, or None."""
    try:
        good = dtype is None or (
            jnp.issubdtype(jnp.dtype(dtype), jnp.floating)
            and jnp.dtype(dtype).itemsize > 1  # of 8 bits JAX adds nothing to others
        )
    except TypeError:
        good = False
    if not good:
        raise JaxnnError(
            f"{where}: got dtype={dtype!r}, expected a floating type, for example "
            "float32"
        )


def check_kind(where: str, name: str, value: Any, *kinds: type) -> None:
    """Raise unless `value` is of one of the `kinds`, or None."""
    if value is not None and not isinstance(value, kinds):
        raise JaxnnError(
            f"{where}: got {name}={value!r}, expected a "
            f"{' or '.join(kind.__name__ for kind in kinds)}"
        )


def as_loss(where: str, loss: Any) -> Loss:
    """A loss, given itself or by its name.

    Raises:
      JaxnnError: neither (lists the names).
    """
    if not isinstance(loss, str) and not callable(loss):
        raise JaxnnError(f"{where}: got loss={loss!r}, expected a function or a name")
    return loss_by_name(loss)


def check_functions(where: str, **given: Any) -> None:
    """Raise unless each is a function or None."""
    for name, value in given.items():
        if value is not None and not callable(value):
            raise JaxnnError(f"{where}: got {name}={value!r}, expected a function")


def check_labels(where: str, net: Layer, loss: Any, x: Any, y: Any, held: Any) -> None:
    """Raise unless labels are among the network's outputs; found by shapes, not NaN."""
    out_shape = init_shapes(net, x.shape[1:])[2]
    check_targets(f"{where}: data", y, out_shape, loss)
    if held is not None:
        check_targets(f"{where}: validation", held[1], out_shape, loss)


def check_step_functions(step: Any, x: Any, y: Any, batch: int, dtype: Any) -> None:
    """Raise unless the functions that a step calls give what it takes, tried on shapes.

    Args:
      step: of `make_step`.
      x: inputs of the data.
      y: its targets, `Weighted` if they have weights.
      batch: samples a step.
      dtype: of the parameters; None is JAX's.
    """
    params, _, out_shape = init_shapes(step.net, x.shape[1:])
    _tried("optimizer.init", step.optimizer.init, (params,), "a state")
    shape, key = (batch, *x.shape[1:]), jax.random.key(0)
    ts = jax.eval_shape(partial(step.start, shape, dtype=dtype), key)
    x = jax.ShapeDtypeStruct(shape, float_type(ts.params))
    y = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct((batch, *a.shape[1:]), jnp.result_type(a)), y
    )
    params, opt = ts.params, ts.opt
    y, weights = y if isinstance(y, Weighted) else (y, None)
    tree = "a tree like params, of the same shapes"
    if step.augment is not None:
        _check_made("augment", step.augment, (key, x), x, f"floats {x.shape}")
    if step.mixup is not None:
        wanted = f"(x, y, weights): floats {x.shape}, y ({len(x)}, ...), weights"
        made = _tried("mixup", step.mixup, (key, x, y, weights), wanted)
        good = isinstance(made, tuple | list) and len(made) == 3
        if (
            not (good and _alike(made[0], x))
            or getattr(made[1], "shape", ())[:1] != x.shape[:1]
        ):
            raise _wrong("mixup", made, wanted)
        _, y, weights = made
    if step.weight_noise is not None:
        _check_made("weight_noise", step.weight_noise, (key, params), params, tree)
    if step.penalty is not None:
        wanted = f"(value, dparams): one float and {tree}"
        _check_pair("penalty", step.penalty, (params,), params, wanted)
    if step.project is not None:
        wanted = f"{tree} and types"
        _check_made("project", step.project, (params,), params, wanted, same_type=True)
    pred = jax.ShapeDtypeStruct((len(x), *out_shape), x.dtype)

    def loss(pred, y, weights):
        return step.loss(pred, y, **({} if weights is None else {"weights": weights}))

    wanted = f"(value, dpred): one float and floats {pred.shape}"
    _check_pair("loss", loss, (pred, y, weights), pred, wanted)
    wanted = f"(updates, state): {tree}, and a state like that of init"
    made = _tried(
        "optimizer.update", step.optimizer.update, (params, opt, params), wanted
    )
    good = isinstance(made, tuple | list) and len(made) == 2
    if not (good and _alike(made[0], params) and _alike(made[1], opt, same_type=True)):
        raise _wrong("optimizer.update", made, wanted)


def _check_made(name, function, given, like, wanted, same_type=False):
    made = _tried(name, function, given, wanted)
    if not _alike(made, like, same_type):
        raise _wrong(name, made, wanted)


def _check_pair(name, function, given, like, wanted):
    """Raise unless it gives a number and what is like `like`."""
    made = _tried(name, function, given, wanted)
    good = isinstance(made, tuple | list) and len(made) == 2 and _alike(made[1], like)
    if not good or getattr(made[0], "shape", None) != ():
        raise _wrong(name, made, wanted)


def _tried(name, function, given, wanted):
    """Shapes of what a user's function gives back."""
    try:
        return jax.eval_shape(function, *given)
    except JaxnnError:
        raise
    except Exception as error:  # whatever a foreign function raises
        raise JaxnnError(
            f"fit: {name} raised {type(error).__name__} under jax.jit: "
            f"{first_line(error)}; expected it to return {wanted}"
        ) from error


def _alike(made, like, same_type=False):
    """Whether `made` has the structure and the shapes of `like`."""
    if jax.tree.structure(made) != jax.tree.structure(like):
        return False

    def same(a, b):
        typed = a.dtype == b.dtype if same_type else is_float(a) or not is_float(b)
        return a.shape == b.shape and typed

    return all(map(same, jax.tree.leaves(made), jax.tree.leaves(like)))


def _wrong(name, made, wanted):
    shapes = jax.tree.map(lambda a: f"{a.dtype}{list(a.shape)}", made)
    shown = str(shapes).replace("'", "")
    shown = shown if len(shown) <= 200 else f"{shown[:200]} ..."
    return JaxnnError(f"fit: {name} returned {shown}, expected {wanted}")


@lru_cache(maxsize=64)
def init_shapes(net: Layer, in_shape: tuple[int, ...]) -> tuple[Any, Any, Any]:
    """Shapes of a network's parameters and state, and the shape of its outputs."""
    out = []

    def init(key):
        params, state, shape = net.init(key, in_shape)
        out.append(shape)
        return params, state

    return *jax.eval_shape(init, jax.random.key(0)), out[0]


# ---- weights of samples and of classes, made one array before training


def sample_weights(y: Any, weights: Any = None, class_weights: Any = None) -> Any:
    """One weight for each sample, (N,), or None if neither kind is given.

    Args:
      y: targets; class weights need labels (N,).
      weights: (N,), at least 0.
      class_weights: (classes,), at least 0: a sample's weight is multiplied by that of
        its label; "balanced": see `balanced_class_weights`.

    Raises:
      JaxnnError: weights of another length, negative or not finite, class weights
        without labels or of too few classes.
    """
    if weights is None and class_weights is None:
        return None
    y = np.asarray(y)
    weights = np.ones(len(y)) if weights is None else _checked("weights", weights)
    if len(weights) != len(y):
        raise JaxnnError(f"fit: got {len(weights)} weights for {len(y)} training rows")
    if class_weights is None:
        return weights
    if y.ndim != 1 or not np.issubdtype(y.dtype, np.integer):
        raise JaxnnError(
            f"fit: class_weights need integer labels (N,), got targets {y.shape} of "
            f"{y.dtype}; give each sample its own weight by weights= instead"
        )
    if isinstance(class_weights, str):
        if class_weights != "balanced":
            raise JaxnnError(
                f"fit: got class_weights={class_weights!r}; valid: 'balanced' or an "
                "array with a weight for each class"
            )
        class_weights = balanced_class_weights(y)
    class_weights = _checked("class_weights", class_weights)
    if y.min() < 0 or y.max() >= len(class_weights):
        raise JaxnnError(
            f"fit: got {len(class_weights)} class_weights, but labels from {y.min()} "
            f"to {y.max()}"
        )
    return weights * class_weights[y]


def balanced_class_weights(y: Any) -> np.ndarray:
    """Weights (max label + 1,) that give every class the same total: N / (classes n_c).

    The mean over the N samples is 1; a label that does not occur has weight 0 and is
    not counted among the classes. Source: King, Zeng 2001; scikit-learn's "balanced".

    >>> balanced_class_weights([0, 0, 0, 2]).round(2).tolist()
    [0.67, 0.0, 2.0]
    """
    y = np.asarray(y)
    if y.size == 0 or y.min() < 0:
        least = f"the least is {y.min()}" if y.size else "there are none"
        raise JaxnnError(f"balanced class weights need labels >= 0, but {least}")
    counts = np.bincount(y)
    seen = counts > 0
    return np.where(seen, counts.sum() / (seen.sum() * np.maximum(counts, 1)), 0.0)


def check_takes_weights(loss: Any) -> None:
    """Raise unless `loss` has the keyword `weights`."""
    try:
        parameters = inspect.signature(loss).parameters.values()
    except (TypeError, ValueError):  # a builtin tells nothing: let it try
        return
    if not any(p.name == "weights" or p.kind is p.VAR_KEYWORD for p in parameters):
        name = getattr(loss, "__name__", loss)
        raise JaxnnError(
            f"fit: loss {name} has no keyword weights, expected "
            "(pred, target, *, weights=None) -> (value, dpred); see jaxnn.losses"
        )


def _checked(name, given) -> np.ndarray:
    a = np.asarray(given)
    if a.ndim != 1 or not np.issubdtype(np.result_type(a, np.float32), np.floating):
        raise JaxnnError(
            f"fit: got {name} {a.shape} of {a.dtype}, expected numbers (N,)"
        )
    bad = np.flatnonzero(~(np.isfinite(a) & (a >= 0)))
    if len(bad):
        raise JaxnnError(
            f"fit: {name} has {a[bad[0]]} at index {bad[0]}, expected finite weights "
            ">= 0"
        )
    if not a.any():
        raise JaxnnError(f"fit: got {name} that are all 0, expected one above")
    return a
