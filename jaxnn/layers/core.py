"""The record that every layer, and so every network, is written as.

Floats in, floats out. y has the type that x and the parameters promote to; dx has x's,
and each gradient its parameter's, whatever they are. Whole numbers are taken by the
layers that look up or move elements only, as they are.
"""

import functools
import inspect
import pkgutil
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple, NoReturn, ParamSpec

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.arrays import is_float, is_key, is_whole
from jaxnn.errors import JaxnnError, known_words
from jaxnn.rules.core import Rule, outline

P = ParamSpec("P")


class _Fields(NamedTuple):
    init: Callable[..., tuple[Any, Any, tuple[int, ...]]]
    forward: Callable[..., tuple[Any, Any, Any]]
    backward: Callable[..., tuple[Any, Any]]
    name: str = "layer"
    parts: tuple["Layer", ...] = ()
    made: "Made | None" = None
    bounds: "Callable[[], Layer] | None" = None
    takes: Literal["floats", "numbers", "anything"] = "floats"


class Layer(_Fields):
    """Rules bound to parameters, state and randomness. A network is a Layer too.

    Attributes:
      init: `(key, in_shape) -> (params, state, out_shape)`; shapes without batch axis.
      forward: `(params, state, x, *, key=None, train) -> (y, state, cache)`; x has the
        batch axis first, `train` is a Python bool, `key` is needed by random layers
        in training only.
      backward: `(cache, dy) -> (dx, dparams)`; dparams has the structure of params.
      name: what errors, `summary` and profiles call it, with its settings.
      parts: the layers a combinator is made of, `()` for a single layer.
      made: the constructor and its arguments. Layers made alike are equal, so they
        share compiled programs, and can be pickled; one written by hand, or changed by
        `_replace`, equals itself only.
      bounds: `() ->` the layer over pairs (lower, upper) with the same params, see
        `jaxnn.layers.bounds`; None where it has no bounds.
      takes: what x is: "floats"; any "numbers", of a layer that looks up or moves
        elements; "anything" of a combinator, as its layers look at x themselves.

    Types: y has what x and params promote to (bfloat16 and float32: float32), dx has
    x's type, each gradient its parameter's, see above. init makes params
    in JAX's default float; the statistics of norms are taken in float32 at least.

    Params, state and cache hold arrays only; settings live in the closures. So `jit`,
    `vmap` over seeds, `scan` and optax need no special code.
    """

    __slots__ = ()

    @property
    def constructor(self) -> Any:
        """What it was made by, such as `dense`; None of one written by hand."""
        return None if self.made is None else self.made.constructor

    def _replace(self, **changes: Any) -> "Layer":
        """The layer with other fields; what it was `made` by and its `bounds` go."""
        return Layer(**(self._asdict() | {"made": None, "bounds": None} | changes))

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return (
            isinstance(other, Layer)
            and self.made is not None
            and self.made == other.made
        )

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return object.__hash__(self) if self.made is None else hash(self.made)

    def __repr__(self) -> str:
        if self.made is None:
            return f"<layer {self.name}>"
        private = self.made.constructor.__name__.startswith("_")
        return self.name if private else repr(self.made)

    def _repr_html_(self) -> str:
        """The layers it is made of, each with its place: `params[2]` belongs to 2."""
        from jaxnn.text import html  # in a notebook only

        def places(layer, before):
            for i, part in enumerate(layer.parts):
                yield f"{before}{i}", part.name if part.parts else repr(part)
                yield from places(part, f"{before}{i}/")

        rows = list(places(self, "")) or [("", repr(self))]
        return html(("place", "layer"), rows)

    def __call__(self, *args: Any, **settings: Any) -> NoReturn:
        """Refuse `relu()` and `net(x)`, and say what is meant here."""
        raise JaxnnError(
            f"{self.name} is a layer already and is not called: write it without "
            "brackets in serial(...); to run it, layer.forward(params, state, x, "
            "train=False) -> (y, state, cache)"
        )

    def __copy__(self) -> "Layer":
        return self

    def __deepcopy__(self, memo: dict) -> "Layer":
        return self

    def __reduce__(self) -> tuple:
        if self.made is None:
            raise JaxnnError(
                f"{self.name}: written by hand or changed by _replace, so it cannot be "
                "pickled; expected a layer as a constructor made it. Let a function "
                "that the other process can import make it there"
            )
        made = self.made
        return partial(made.constructor, *made.args, **made.kwargs), ()


LAYERS: dict[str, Callable[..., Layer]] = {}
"""Name -> maker of a layer, for the command line (`dense:128`)."""

ACTIVATIONS: dict[str, Callable[[], Layer]] = {}
"""Name -> maker of an activation, for `mlp` and the command line."""


def register(*layers: Layer | Callable[..., Layer], activations: bool = False) -> None:
    """Make layers, and functions that make them, known by name; see `LAYERS`."""
    for layer in layers:
        if isinstance(layer, Layer):
            name, make = layer.name, functools.partial(_itself, layer)
        else:
            name, make = layer.__name__, layer
        LAYERS[name] = make
        if activations:
            ACTIVATIONS[name] = make


def _itself(layer):
    return layer


class Made:
    """A public constructor and the arguments it was called with.

    Two are equal if the constructor is the same and the arguments are, with their
    types: jit tells 1, 1.0 and True apart. Functions are equal only to themselves.

    Attributes:
      constructor: what makes such a layer again, `constructor(*args, **kwargs)`.
      args: its arguments by place.
      kwargs: its arguments by name.
    """

    __slots__ = ("_hash", "_key", "args", "constructor", "kwargs")

    def __init__(self, constructor: Callable, *args: Any, **kwargs: Any):
        self.constructor, self.args, self.kwargs = constructor, args, kwargs
        self._key = settled((args, kwargs))
        # hashed once: networks are asked for theirs at every call of a jitted function
        self._hash = hash((constructor, self._key))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return (
            isinstance(other, Made)
            and self._hash == other._hash
            and self.constructor == other.constructor
            and self._key == other._key
        )

    def __repr__(self) -> str:
        if self.constructor is pkgutil.resolve_name:  # a value: by its own name
            return self.args[0].partition(":")[2]
        args, kwargs = shortest(self.constructor, self.args, self.kwargs)
        shown = [*map(_shown, args), *(f"{k}={_shown(v)}" for k, v in kwargs.items())]
        return f"{self.constructor.__name__}({', '.join(shown)})"


def made_by(constructor: Callable, args: tuple, kwargs: dict) -> Made | None:
    """How `constructor(*args, **kwargs)` came about, its defaults filled in.

    None if an argument cannot be hashed: arrays, values that a sweep traces.
    """
    bound = inspect.signature(constructor).bind(*args, **kwargs)
    bound.apply_defaults()
    try:
        return Made(constructor, *bound.args, **bound.kwargs)
    except TypeError:
        return None


def settled(value: Any) -> Any:
    """`value` in a form that is compared and hashed by content and type.

    Raises:
      TypeError: it, or something in it, cannot be hashed.

    >>> settled([1]) == settled((1,)), settled(1) == settled(1.0)
    (True, False)
    """
    if isinstance(value, partial):
        return "partial", value.func, settled((value.args, value.keywords))
    if isinstance(value, float):
        return type(value), float(value).hex()  # 0.0 is not -0.0, NaN is itself
    if type(value) in (list, tuple):
        return tuple(map(settled, value))
    if isinstance(value, dict):
        return "dict", tuple((k, settled(v)) for k, v in value.items())
    hash(value)
    return type(value), value


def shortest(constructor: Callable, args: tuple, kwargs: dict) -> tuple[list, dict]:
    """The arguments without those that the constructor has as defaults."""
    signature = inspect.signature(constructor)
    by_place, by_name, gap = [], {}, False
    for name, value in signature.bind(*args, **kwargs).arguments.items():
        parameter = signature.parameters[name]
        default = parameter.default
        if default is not parameter.empty and settled(default) == settled(value):
            gap = True
        elif parameter.kind is parameter.VAR_POSITIONAL:
            by_place += value
        elif parameter.kind is parameter.VAR_KEYWORD:
            by_name |= value
        elif parameter.kind is parameter.KEYWORD_ONLY or gap:
            by_name[name] = value
        else:
            by_place.append(value)
    return by_place, by_name


def _shown(value):
    if inspect.isroutine(value) or isinstance(value, functools.partial):
        return getattr(value, "__name__", "partial")
    return repr(value)


def constructor(function: Callable[P, Layer]) -> Callable[P, Layer]:
    """Decorate a function that makes layers: they say how they were `made`.

    Whatever changes the layer has to be an argument. Layers of equal arguments are
    taken for the same one.
    """

    checked_words = known_words(function)

    @functools.wraps(function)
    def make(*args: P.args, **kwargs: P.kwargs) -> Layer:
        layer = checked_words(*args, **kwargs)
        made, bounds = made_by(make, args, kwargs), layer.bounds
        combines = layer.parts or layer.takes == "anything"
        layer = checked(layer) if combines else typed(layer)
        return layer._replace(made=made, bounds=bounds)

    _constructors.add(make)
    return make


_constructors: set[Callable] = set()


def is_constructor(function: Any) -> bool:
    """Whether it is a function decorated by `@constructor`."""
    return callable(function) and function in _constructors


def value(name: str, layer: Layer) -> Layer:
    """A layer without settings, `made` by its name in a module: "package.module:relu".

    >>> from jaxnn import rules
    >>> value("jaxnn.layers:relu", pointwise(rules.relu))
    relu
    """
    made = Made(pkgutil.resolve_name, name)
    return typed(layer)._replace(made=made, bounds=layer.bounds)


def pointwise(rule: Rule, name: str | None = None) -> Layer:
    """A layer without parameters or state from a rule of one argument, shape kept."""
    return shaped(rule, lambda shape: shape, name)


def shaped(
    rule: Rule, out_shape: Callable | None = None, name: str | None = None, **more: Any
) -> Layer:
    """A layer without parameters from a rule of one argument that changes the shape.

    `out_shape(in_shape)` gives the shape it makes, or raises; None asks the rule.
    `more` are fields of the layer.
    """

    def init(key, in_shape):
        del key
        return (), (), tuple((out_shape or traced)(tuple(in_shape)))

    def traced(in_shape):
        x = jax.ShapeDtypeStruct((1, *in_shape), jnp.float32)
        return jax.eval_shape(rule.fwd, x)[0].shape[1:]

    return of_rule(rule, (), init, name=name, **more)


def of_rule(
    rule: Rule,
    names: tuple[str, ...],
    init: Callable,
    check: Callable | None = None,
    name: str | None = None,
    **more: Any,
) -> Layer:
    """A layer whose parameters are the arguments of its rule behind x, in that order.

    `check(params, x)` raises where they do not fit.
    """

    def forward(params, state, x, *, key=None, train):
        del key, train
        if check is not None:
            check(params, x)
        y, cache = rule.fwd(x, *(params[k] for k in names))
        return y, state, cache

    def backward(cache, dy):
        dx, *dparams = rule.bwd(cache, dy)
        return dx, dict(zip(names, dparams, strict=True)) or ()

    return Layer(init, forward, backward, name or rule.name, **more)


class Mixed(NamedTuple):
    """A cache where x and the parameters have several types, and these types."""

    cache: Any
    x: Any
    params: Any


def typed(layer: Any) -> Any:
    """The functions of `layer` with checks of their input.

    Where x and params are of one type, which is the rule, nothing is added.
    """

    def forward(params, state, x, *, key=None, train):
        dtype = getattr(x, "dtype", None)
        if not isinstance(dtype, np.dtype):
            raise JaxnnError(
                f"{layer.name}: got an input of type {type(x).__name__}, expected an "
                "array; make it one by jnp.asarray"
            )
        if layer.takes == "floats" and not is_float(x):
            raise JaxnnError(
                f"{layer.name}: got an input of dtype {dtype}, expected floats; "
                "convert it by x.astype(jnp.float32), pixels to [0, 1] by x / 255"
            )
        y, state, cache = layer.forward(params, state, x, key=key, train=train)
        types = {a.dtype for a in jax.tree.leaves((params, x))}
        if len(types) > 1:
            cache = Mixed(cache, outline(x), jax.tree.map(outline, params))
        return y, state, cache

    def backward(cache, dy):
        if not isinstance(cache, Mixed):
            return layer.backward(cache, dy)
        dx, dparams = layer.backward(cache.cache, dy)
        dparams = jax.tree.map(lambda d, p: d.astype(p.dtype), dparams, cache.params)
        return dx if dx is None else dx.astype(cache.x.dtype), dparams

    return checked(layer)._replace(forward=forward, backward=backward)


def checked(layer: Any) -> Any:
    """`layer` with an `init` that looks at its key and shape."""

    def init(key, in_shape):
        shape = checked_shape(layer.name, in_shape)
        return layer.init(checked_key(layer.name, key), shape)

    return layer._replace(init=init)


def checked_key(name: str, key: Any) -> Any:
    """`key`, if it is one."""
    if is_key(key):
        return key
    # of the old style
    if getattr(key, "dtype", None) == jnp.uint32 and key.shape[-1:] in ((2,), (4,)):
        return key
    shown = repr(key) if isinstance(key, (int, float)) else type(key).__name__
    raise JaxnnError(
        f"{name}: got key {shown}, expected a PRNG key such as jax.random.key(0)"
    )


def checked_shape(name: str, in_shape: Any) -> tuple[int, ...]:
    """`in_shape` as a tuple of sizes."""
    if not isinstance(in_shape, Sequence) or not all(map(is_whole, in_shape)):
        raise JaxnnError(
            f"{name}: got in_shape {in_shape!r}, expected a tuple of whole numbers of "
            "at least 1, the batch axis left out, such as (784,) or (28, 28, 1)"
        )
    return tuple(map(int, in_shape))


def check_count(name: str, what: str, value: Any) -> None:
    """Raise unless `value` is a whole number of at least 1."""
    if not is_whole(value):
        raise JaxnnError(
            f"{name}: got {what}={value!r}, expected a whole number of at least 1"
        )


def check_params(
    name: str,
    params: Any,
    names: Iterable[str],
    expected: str = "",
    fits: bool = True,
    what: str = "params",
) -> None:
    """Raise unless params are a dict of those names, `expected` in words."""
    if not isinstance(params, dict) or set(params) != set(names) or not fits:
        raise JaxnnError(
            f"{name}: got {what} of shapes {jax.tree.map(jnp.shape, params)}, expected "
            f"a dict of {' and '.join(sorted(names))}{expected}; were they made by "
            "another network?"
        )


def check_sequence(name: str, in_shape: tuple[int, ...]) -> None:
    """Raise unless in_shape is (steps, features)."""
    if len(in_shape) != 2:
        raise JaxnnError(
            f"{name}: got in_shape={tuple(in_shape)}, expected (steps, features); "
            "in_shape leaves out the batch axis only"
        )


def check_input(name: str, x: Any, width: int, axes: str = "batch, ...") -> None:
    """Raise unless x is (batch, ..., width), or (batch, steps, width) by `axes`."""
    ndim_fits = x.ndim == 3 if "steps" in axes else x.ndim >= 2
    if not ndim_fits or x.shape[-1] != width:
        raise JaxnnError(
            f"{name}: input of shape {x.shape}, expected ({axes}, {width}). Was init "
            f"called with in_shape={x.shape[1:]}?"
        )
