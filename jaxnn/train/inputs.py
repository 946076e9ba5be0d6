"""What `fit`, `evaluate` and `predict` are given, checked before they compile."""

import inspect
from collections.abc import Callable
from functools import lru_cache, partial
from numbers import Real
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, Mesh

from jaxnn.arrays import as_array, as_rows, is_float, is_whole
from jaxnn.combine import chained
from jaxnn.errors import JaxnnError, first_line, require
from jaxnn.layers import Layer, dense, sigmoid, softmax
from jaxnn.losses import Loss, RegisteredLoss, loss_by_name
from jaxnn.train.snapshots import Snapshots
from jaxnn.train.state import Weighted, float_type
from jaxnn.train.step import Defense

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
    check_net(where, net)
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


def _is_number(value):
    scalar = isinstance(value, jax.Array) and value.ndim == 0
    return (scalar or isinstance(value, Real)) and not isinstance(value, bool)


def _is_floating(value):
    try:  # of 8 bits JAX adds nothing to others
        dtype = jnp.dtype(value)
    except TypeError:
        return False
    return jnp.issubdtype(dtype, jnp.floating) and dtype.itemsize > 1


def _one_of(*names):
    return lambda value: value in names, f"; valid: {', '.join(names)}"


def _of_kind(*kinds):
    names = " or ".join(kind.__name__ for kind in kinds)
    return lambda value: isinstance(value, kinds), f", expected a {names}"


COUNT = is_whole, ", expected at least 1, a whole number"
NUMBER = _is_number, ", expected a number"
FUNCTION = callable, ", expected a function"
REQUIRED: dict[str, tuple[Callable[[Any], Any], str]] = {
    **dict.fromkeys(("epochs", "batch", "steps", "max_bad_steps"), COUNT),
    "optimizer": (
        lambda value: hasattr(value, "init") and hasattr(value, "update"),
        ", expected one of optax, or a name in jaxnn.optimizers.OPTIMIZERS",
    ),
    "shuffle": _one_of("shared", "per-seed"),
}
"""Argument -> (whether a value will do, what to say of another)."""
OPTIONAL: dict[str, tuple[Callable[[Any], Any], str]] = {
    **dict.fromkeys(("patience", "steps_per_call"), COUNT),
    **dict.fromkeys(("clip_norm", "clip_value", "ema"), NUMBER),
    **dict.fromkeys(
        ("penalty", "project", "augment", "mixup", "weight_noise", "on_epoch"), FUNCTION
    ),
    "defense": _of_kind(Defense),
    "dtype": (_is_floating, ", expected a floating type, for example float32"),
    "keep": _one_of("best", "last"),
    "mesh": _of_kind(Mesh, AbstractMesh),
    "snapshots": _of_kind(Snapshots),
}
"""The same of arguments that may be None."""


def check_arguments(where: str, **given: Any) -> None:
    """Raise unless each argument is what the tables say of its name."""
    for name, value in given.items():
        fits, but = (REQUIRED | OPTIONAL)[name]
        if not (fits(value) or (value is None and name in OPTIONAL)):
            raise JaxnnError(f"{where}: got {name}={value!r}{but}")


def as_loss(where: str, loss: Any) -> Loss:
    """A loss, given itself or by its name.

    Raises:
      JaxnnError: neither (lists the names).
    """
    fits = isinstance(loss, str) or callable(loss)
    require(fits, where, "loss", loss, "a function or a name")
    return loss_by_name(loss)


def check_net(where: str, net: Any) -> None:
    """Raise unless `net` is a layer."""
    if not isinstance(net, Layer):
        raise JaxnnError(
            f"{where}: got a network of type {type(net).__name__}, expected a Layer "
            "such as mlp([784, 10])"
        )


def check_ending(where: str, net: Layer, loss: Any) -> None:
    """Raise where the loss is one for another output than the network's last layer.

    Where it cannot be known, as of a layer of one's own, nothing is said.
    """
    while parts := chained(net):
        net = parts[-1]
    known = {"softmax": net == softmax, "sigmoid": net == sigmoid}
    known["dense"] = net.made is not None and net.made.constructor is dense
    ending = next((name for name, so in known.items() if so), None)
    allowed = getattr(loss, "outputs", None)
    if ending and allowed and (None if ending == "dense" else ending) not in allowed:
        takes = " or ".join("logits" if end is None else end for end in allowed)
        raise JaxnnError(
            f"{where}: the loss {loss.__name__} takes {takes}, but the network ends in "
            f"{net.name}; change its last layer, or the loss"
        )


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
    _check_made("optimizer.init", step.optimizer.init, (params,), "a state", anything)
    shape, key = (batch, *x.shape[1:]), jax.random.key(0)
    ts = jax.eval_shape(partial(step.start, shape, dtype=dtype), key)
    params, opt = ts.params, ts.opt
    x = jax.ShapeDtypeStruct(shape, float_type(params))
    y = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct((batch, *a.shape[1:]), jnp.result_type(a)), y
    )
    y, weights = y if isinstance(y, Weighted) else (y, None)
    pred = jax.ShapeDtypeStruct((batch, *out_shape), x.dtype)

    def loss(pred, y, weights):
        return step.loss(pred, y, **({} if weights is None else {"weights": weights}))

    def number(made):
        return getattr(made, "shape", None) == ()

    def rows(made):
        return getattr(made, "shape", ())[:1] == (batch,)

    tree = "a tree like params, of the same shapes"
    if step.augment is not None:
        _check_made("augment", step.augment, (key, x), f"floats {shape}", _like(x))
    if step.mixup is not None:
        wanted = f"(x, y, weights): floats {shape}, y ({batch}, ...), weights"
        given, fits = (key, x, y, weights), (_like(x), rows, anything)
        _, y, weights = _check_made("mixup", step.mixup, given, wanted, *fits)
    if step.weight_noise is not None:
        given = key, params
        _check_made("weight_noise", step.weight_noise, given, tree, _like(params))
    if step.penalty is not None:
        wanted = f"(value, dparams): one float and {tree}"
        fits = number, _like(params)
        _check_made("penalty", step.penalty, (params,), wanted, *fits)
    if step.project is not None:
        wanted, fits = f"{tree} and types", _like(params, same_type=True)
        _check_made("project", step.project, (params,), wanted, fits)
    wanted = f"(value, dpred): one float and floats {pred.shape}"
    _check_made("loss", loss, (pred, y, weights), wanted, number, _like(pred))
    wanted = f"(updates, state): {tree}, and a state like that of init"
    given, fits = (params, opt, params), (_like(params), _like(opt, same_type=True))
    _check_made("optimizer.update", step.optimizer.update, given, wanted, *fits)


def anything(made):
    """Whatever it is."""
    del made
    return True


def _check_made(name, function, given, wanted, *fits):
    """Shapes of what a user's function gives: of several `fits` a part for each."""
    try:
        made = jax.eval_shape(function, *given)
    except JaxnnError:
        raise
    except Exception as error:  # whatever a foreign function raises
        raise JaxnnError(
            f"fit: {name} raised {type(error).__name__} under jax.jit: "
            f"{first_line(error)}; expected it to return {wanted}"
        ) from error
    parts = made if len(fits) > 1 else (made,)
    good = isinstance(parts, tuple | list) and len(parts) == len(fits)
    if not (good and all(fit(part) for fit, part in zip(fits, parts, strict=True))):
        shapes = jax.tree.map(lambda a: f"{a.dtype}{list(a.shape)}", made)
        shown = str(shapes).replace("'", "")
        shown = shown if len(shown) <= 200 else f"{shown[:200]} ..."
        raise JaxnnError(f"fit: {name} returned {shown}, expected {wanted}")
    return made


def _like(tree, same_type=False):
    """Whether what is made has the structure and the shapes of `tree`."""

    def same(a, b):
        typed = a.dtype == b.dtype if same_type else is_float(a) or not is_float(b)
        return a.shape == b.shape and typed

    def fits(made):
        if jax.tree.structure(made) != jax.tree.structure(tree):
            return False
        return all(map(same, jax.tree.leaves(made), jax.tree.leaves(tree)))

    return fits


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
