"""What `fit`, `evaluate` and `predict` are given, checked before they compile."""

from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from numbers import Real
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, Mesh

from jaxnn.arrays import as_array, as_rows, check_unit, first_true, is_float, is_whole
from jaxnn.combine import split_last
from jaxnn.errors import JaxnnError, first_line, lookup, require
from jaxnn.layers import Layer, dense, embedding, sigmoid, softmax
from jaxnn.losses import LOSSES, Loss, RegisteredLoss, loss_by_name
from jaxnn.rules.products import PRECISIONS
from jaxnn.train.policy import POLICIES
from jaxnn.train.snapshots import Snapshots
from jaxnn.train.state import Weighted, float_type
from jaxnn.train.step import Defense

MANY = (list, tuple, range, np.ndarray, jax.Array)
"""How several seeds are given."""
MOST_BAD = 10  # steps in a row


# ---- arguments by themselves


def _is_number(value):
    scalar = isinstance(value, jax.Array) and value.ndim == 0
    return (scalar or isinstance(value, Real)) and not isinstance(value, bool)


def _is_floating(value):
    try:  # of 8 bits JAX adds nothing to others
        dtype = jnp.dtype(value)
    except TypeError:
        return False
    return jnp.issubdtype(dtype, jnp.floating) and dtype.itemsize > 1


def _of(*kinds):
    return lambda value: isinstance(value, kinds)


FORMS: dict[str, tuple[Callable[[Any], Any], str]] = {
    name: (fits, but)
    for names, fits, but in (
        (
            "epochs batch steps max_bad_steps patience? steps_per_call?",
            is_whole, ", expected at least 1, a whole number",
        ),
        (
            "train_sample", lambda n: is_whole(n, 0),
            ", expected a whole number, 0 for none",
        ),
        ("clip_norm? clip_value? ema?", _is_number, ", expected a number"),
        (
            "penalty? project? augment? mixup? weight_noise? on_epoch?",
            callable, ", expected a function",
        ),
        (
            "optimizer", lambda a: hasattr(a, "init") and hasattr(a, "update"),
            ", expected one of optax, or a name in jaxnn.optimizers.OPTIMIZERS",
        ),
        ("dtype?", _is_floating, ", expected a floating type, for example float32"),
        ("shuffle", ("shared", "per-seed").__contains__, "; valid: shared, per-seed"),
        ("keep?", ("best", "last").__contains__, "; valid: best, last"),
        ("precision?", PRECISIONS.__contains__, f"; valid: {', '.join(PRECISIONS)}"),
        ("defense?", _of(Defense), ", expected a Defense"),
        ("snapshots?", _of(Snapshots), ", expected Snapshots"),
        ("mesh?", _of(Mesh, AbstractMesh), ", expected a Mesh"),
    )
    for name in names.split()
}  # fmt: skip
"""Argument (with ? if it may be None) -> whether a value will do, what to say else."""


def check_arguments(where: str, **given: Any) -> None:
    """Raise unless each argument is what `FORMS` says of its name."""
    for name, value in given.items():
        if value is not None or name in FORMS:
            fits, but = FORMS.get(name) or FORMS[f"{name}?"]
            if not fits(value):
                raise JaxnnError(f"{where}: got {name}={value!r}{but}")


def check_effects(
    validation: Any, patience: Any, keep: Any, metrics: Any, train_sample: int,
    guard: str, max_bad_steps: int,
) -> None:  # fmt: skip
    """Raise for a setting of `fit` that changes nothing beside the others."""
    if validation is None and (patience is not None or keep == "best"):
        what = 'keep="best"' if patience is None else f"patience={patience}"
        raise JaxnnError(f"fit: {what} has no effect without validation=(x, y)")
    words = "a dict of name -> function (outputs, y) -> number"
    require(isinstance(metrics or {}, Mapping), "fit", "metrics", metrics, words)
    if metrics and validation is None and not train_sample:
        raise JaxnnError("fit: metrics have no effect without validation=(x, y)")
    lookup("guard", guard, POLICIES)
    if guard != "skip" and max_bad_steps != MOST_BAD:
        raise JaxnnError(
            f'fit: max_bad_steps={max_bad_steps} has no effect with guard="{guard}", '
            'which ends the run in its own way; expected guard="skip"'
        )


def as_loss(where: str, loss: Any) -> Loss:
    """A loss, given itself or by its name; a `JaxnnError` lists the names."""
    fits = isinstance(loss, str) or callable(loss)
    require(fits, where, "loss", loss, "a function or a name")
    return loss_by_name(loss)


def check_net(where: str, net: Any) -> None:
    """Raise unless `net` is a layer."""
    fits = isinstance(net, Layer)
    require(fits, where, "net", net, "a Layer such as mlp([784, 10])")


def seed_list(seeds: Any) -> list[int]:
    """The seeds of `fit`, one or several."""
    found = list(seeds) if isinstance(seeds, MANY) else [seeds]
    fits = found and all(is_whole(seed, 0) and int(seed) < 2**32 for seed in found)
    words = "at least one seed, whole numbers from 0 to 2^32 - 1: one, or a list"
    require(fits, "fit", "seeds", seeds, words)
    return found


# ---- data


def as_targets(y: Any, where: str, what: str) -> Any:
    """Targets as an array that int32, JAX's own, holds; bools as the labels 0 and 1."""
    y = as_rows(y, where, what)
    if jnp.issubdtype(y.dtype, jnp.integer):
        low, high, most = int(y.min()), int(y.max()), np.iinfo(np.int32).max
        if max(high, -low) > most:
            raise JaxnnError(
                f"{where}: got {what} from {low} to {high}, expected labels up to "
                f"{most:,}"
            )
    return y.astype(np.int32) if y.dtype == bool and y.ndim == 1 else y


def data_pair(pair: Any, where: str, name: str) -> tuple[Any, Any]:
    """x and y of one length, at least 1, all finite."""
    try:
        x, y = pair
    except (TypeError, ValueError):
        raise JaxnnError(
            f"{where}: {name} must be a pair (x, y), got {type(pair).__name__}; of a "
            "Dataset give its part, data.train"
        ) from None
    x, y = as_array(x, where, f"{name} x"), as_array(y, where, f"{name} y")
    counts = [len(a) if a.ndim else 0 for a in (x, y)]
    if counts[0] != counts[1] or not counts[0]:
        raise JaxnnError(
            f"{where}: {name} has {counts[0]} inputs and {counts[1]} targets, expected "
            "the same number, at least 1"
        )
    for part, a in (("x", x), ("y", y)):
        if jnp.issubdtype(a.dtype, jnp.floating):
            bad = ~np.isfinite(np.asarray(a))
            if bad.any():
                raise JaxnnError(
                    f"{where}: {name} {part} has {bad.sum()} non-finite values, the "
                    f"first at index {first_true(bad)}; remove or replace those rows"
                )
    return x, as_targets(y, where, f"{name} y")


def check_pixels(where: str, net: Layer, x: Any, what: str) -> None:
    """`check_unit` of inputs; an embedding looks up whole numbers of any size."""

    def looks_up(layer):
        return layer.constructor is embedding or any(map(looks_up, layer.parts))

    if not looks_up(net):
        check_unit(x, where, what)


def same_scale(x: Any, held: Any, where: str) -> None:
    """Raise if one holds pixels 0..255 as bytes and the other as floats."""
    pairs = ("data", x, "validation", held), ("validation", held, "data", x)
    for name, a, rest, b in pairs:
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


def checked_data(
    where: str, net: Any, loss: Any, data: Any, held: Any, batch: Any
) -> tuple[Any, Any, Any]:
    """(x, y, held): arrays that fit one another, the network and the loss."""
    check_net(where, net)
    check_arguments(where, batch=batch)
    x, y = data_pair(data, where, "data")
    if held is not None:
        held = data_pair(held, where, "validation")
        same_scale(x, held[0], where)
        check_pixels(where, net, held[0], "validation x")
    check_pixels(where, net, x, "data x")
    if batch > len(x):
        raise JaxnnError(
            f"{where}: got batch={batch} but only {len(x)} training rows; expected "
            f"1 <= batch <= {len(x)}"
        )
    check_ending(where, net, loss)
    check_labels(where, net, loss, x, y, held)
    return x, y, held


# ---- data, parameters and loss beside the network


@lru_cache(maxsize=64)
def init_shapes(net: Layer, in_shape: tuple[int, ...]) -> tuple[Any, Any, Any]:
    """Shapes of a network's parameters and state, and the shape of its outputs."""
    out = []

    def init(key):
        params, state, shape = net.init(key, in_shape)
        out.append(shape)
        return params, state

    return *jax.eval_shape(init, jax.random.key(0)), out[0]


def check_params(
    where: str, net: Any, params: Any, state: Any, x: Any, seeds: bool
) -> None:
    """Raise unless params and state are of `net`, stacked if `seeds` says so."""
    check_net(where, net)
    given = {"params": params, "state": state}
    for (what, got), want in zip(
        given.items(), init_shapes(net, x.shape[1:])[:2], strict=True
    ):
        if jax.tree.structure(got) != jax.tree.structure(want):
            raise JaxnnError(
                f"{where}: got {what} that are not of this network; expected them as "
                "its init or fit gives them"
            )
        pairs = zip(*map(jax.tree.leaves, (got, want)), strict=True)
        if any(jnp.ndim(a) - b.ndim != seeds for a, b in pairs):
            raise JaxnnError(
                f"{where}: got seeds={seeds} and {what} with{'out' * seeds} an axis of "
                "seeds in front; expected seeds=True for several networks side by side "
                "only, of which jax.tree.map(lambda a: a[0], params) is one"
            )


ENDINGS = {"softmax": softmax, "sigmoid": sigmoid}


def check_ending(
    where: str, net: Layer, loss: Any, known: Mapping[str, Layer] = ENDINGS
) -> None:
    """Raise where the loss is one for another output than the network's last layer.

    Where it is neither dense nor one of the `known`, nothing is said.
    """
    net = split_last(net).last
    is_dense = net.constructor is dense
    ending = next((name for name, layer in known.items() if layer == net), None)
    allowed = getattr(loss, "outputs", None)
    if allowed and (ending or is_dense) and ending not in allowed:
        words = " or ".join(end or "a dense layer (logits)" for end in allowed)
        fitting = [name for name, one in LOSSES.items() if ending in one.outputs]
        raise JaxnnError(
            f"{where}: the loss {loss.__name__} takes a network that ends in {words}, "
            f"got one that ends in {net.name}; change its output, or the loss to one "
            f"of {', '.join(fitting)}"
        )


def check_labels(where: str, net: Layer, loss: Any, x: Any, y: Any, held: Any) -> None:
    """Raise unless labels are among the network's outputs; found by shapes, not NaN."""
    out_shape = init_shapes(net, x.shape[1:])[2]
    check_targets(f"{where}: data", y, out_shape, loss)
    if held is not None:
        check_targets(f"{where}: validation", held[1], out_shape, loss)


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
    try:
        jax.eval_shape(loss, jax.ShapeDtypeStruct((len(y), *out_shape), float), y)
    except JaxnnError as error:
        raise JaxnnError(f"{where}: {error}") from None
    labels, outputs = np.asarray(y), out_shape[-1]
    answers = loss.is_one_answer(outputs)
    many = 2 if answers else outputs
    least = -1 if answers and loss.targets == "signs" else 0  # no may be -1, too
    bad = (labels < least) | (labels >= many)
    if bad.any():
        more = "; for real values give them an axis, y[:, None]" if many == 1 else ""
        raise JaxnnError(
            f"{where} has label {labels[bad][0]} at index {first_true(bad)}, but the "
            f"network has {outputs} outputs: labels must be 0 to {many - 1}{more}"
        )


# ---- the functions of a step


def check_step_functions(step: Any, x: Any, y: Any, batch: int, dtype: Any) -> None:
    """Raise unless the functions that a step calls give what it takes, tried on shapes.

    `y` is `Weighted` if samples have weights; `dtype` is of the parameters.
    """
    shape, key = (batch, *x.shape[1:]), jax.random.key(0)
    params, _, out_shape = init_shapes(step.net, x.shape[1:])
    _tried(step, "optimizer.init", (params,), "a state", _anything)
    ts = jax.eval_shape(partial(step.start, shape, dtype=dtype), key)
    params, opt = ts.params, ts.opt
    x = jax.ShapeDtypeStruct(shape, float_type(params))
    y = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct((batch, *a.shape[1:]), jnp.result_type(a)), y
    )
    y, weights = y if isinstance(y, Weighted) else (y, None)
    pred = jax.ShapeDtypeStruct((batch, *out_shape), x.dtype)

    def number(made):
        return getattr(made, "shape", None) == ()

    def rows(made):
        return getattr(made, "shape", ())[:1] == (batch,)

    tree = "a tree like params, of the same shapes"
    tried, like = partial(_tried, step), _like(params)
    tried("augment", (key, x), f"floats {shape}", _like(x))
    wanted = f"(x, y, weights): floats {shape}, y ({batch}, ...), weights"
    mixed = tried("mixup", (key, x, y, weights), wanted, _like(x), rows, _anything)
    _, y, weights = mixed or (x, y, weights)
    tried("weight_noise", (key, params), tree, like)
    wanted = f"(value, dparams): one float and {tree}"
    tried("penalty", (params,), wanted, number, like)
    tried("project", (params,), f"{tree} and types", _like(params, same_type=True))
    given = (pred, y) if weights is None else (pred, y, weights)
    wanted = f"(value, dpred): one float and floats {pred.shape}"
    tried("loss", given, wanted, number, _like(pred))
    wanted = f"(updates, state): {tree}, and a state like that of init"
    given = params, opt, params
    tried("optimizer.update", given, wanted, like, _like(opt, same_type=True))


def _tried(step, name, given, wanted, *fits):
    """Shapes of what a function of the step gives: of several `fits` a part for each.

    None if the step has no such function.
    """
    function: Any = step
    for part in name.split("."):
        function = getattr(function, part)
    if function is None:
        return None
    try:
        if name == "loss" and len(given) > 2:
            made = jax.eval_shape(lambda p, t, w: function(p, t, weights=w), *given)
        else:
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


def _anything(made):
    del made
    return True


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


# ---- weights of samples and of classes, made one array before training


def sample_weights(y: Any, weights: Any = None, class_weights: Any = None) -> Any:
    """One weight for each sample, (N,), or None if neither kind is given.

    A sample's own weight (N,) is multiplied by that of its label (classes,), which may
    be "balanced", see `balanced_class_weights`.
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


def _checked(name, given) -> np.ndarray:
    a = np.asarray(given)
    if a.ndim != 1 or not np.issubdtype(np.result_type(a, np.float32), np.floating):
        raise JaxnnError(
            f"fit: got {name} {a.shape} of {a.dtype}, expected numbers (N,)"
        )
    bad = ~(np.isfinite(a) & (a >= 0))
    if bad.any():
        raise JaxnnError(
            f"fit: {name} has {a[bad][0]} at index {first_true(bad)}, expected finite "
            "weights >= 0"
        )
    if not a.any():
        raise JaxnnError(f"fit: got {name} that are all 0, expected one above")
    return a
