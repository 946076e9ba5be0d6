"""The record that every layer, and so every network, is written as."""

import functools
import pkgutil
from collections.abc import Callable
from typing import Any, NamedTuple, ParamSpec

from jaxnn.errors import JaxnnError
from jaxnn.layers.made import Made, made_by
from jaxnn.layers.typed import checked, typed
from jaxnn.rules.core import Rule

P = ParamSpec("P")


class _Fields(NamedTuple):
    init: Callable[..., tuple[Any, Any, tuple[int, ...]]]
    forward: Callable[..., tuple[Any, Any, Any]]
    backward: Callable[..., tuple[Any, Any]]
    name: str = "layer"
    parts: tuple["Layer", ...] = ()
    made: Made | None = None
    bounds: "Callable[[], Layer] | None" = None


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

    Types: y has what x and params promote to (bfloat16 and float32: float32), dx has
    x's type, each gradient its parameter's, see `jaxnn.layers.typed`. init makes params
    in JAX's default float; the statistics of norms are taken in float32 at least.

    Params, state and cache hold arrays only; settings live in the closures. So `jit`,
    `vmap` over seeds, `scan` and optax need no special code.
    """

    __slots__ = ()

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
        return _remade, (self.made.constructor, self.made.args, self.made.kwargs)


def _remade(constructor, args, kwargs):
    return constructor(*args, **kwargs)


def constructor(function: Callable[P, Layer]) -> Callable[P, Layer]:
    """Decorate a function that makes layers: they say how they were `made`.

    Whatever changes the layer has to be an argument. Layers of equal arguments are
    taken for the same one.
    """

    @functools.wraps(function)
    def make(*args: P.args, **kwargs: P.kwargs) -> Layer:
        layer = function(*args, **kwargs)
        bounds = layer.bounds
        # a combinator's layers look at inputs themselves, and serial() has none
        combines = layer.parts or function.__name__ == "serial"
        layer = checked(layer) if combines else typed(function.__name__, layer)
        return layer._replace(made=made_by(make, args, kwargs), bounds=bounds)

    return make


def value(name: str, layer: Layer) -> Layer:
    """A layer without settings, `made` by its name in a module: "package.module:relu".

    >>> from jaxnn import rules
    >>> value("jaxnn.layers:relu", pointwise(rules.relu))
    relu
    """
    made = Made(pkgutil.resolve_name, name)
    return typed(layer.name, layer)._replace(made=made, bounds=layer.bounds)


def pointwise(rule: Rule, name: str | None = None) -> Layer:
    """A layer without parameters or state from a rule of one argument, shape kept."""
    return shaped(rule, lambda shape: shape, name)


def shaped(rule: Rule, out_shape: Callable, name: str | None = None) -> Layer:
    """A layer without parameters from a rule of one argument that changes the shape.

    `out_shape(in_shape)` gives the shape it makes, or raises.
    """

    def init(key, in_shape):
        del key
        return (), (), tuple(out_shape(tuple(in_shape)))

    def forward(params, state, x, *, key=None, train):
        del params, key, train
        y, cache = rule.fwd(x)
        return y, state, cache

    def backward(cache, dy):
        (dx,) = rule.bwd(cache, dy)
        return dx, ()

    return Layer(init, forward, backward, name or rule.name)
