"""Bridges: rules and layers as functions that JAX differentiates, and back.

jaxnn itself needs neither: it calls `backward`. `as_jax` is for use in a network of
another library (Flax, Equinox, plain `jax.grad`), `from_jax` for a function that has no
hand-written rule yet.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import dtypes

from jaxnn.arrays import is_float
from jaxnn.errors import JaxnnError
from jaxnn.layers import Layer
from jaxnn.layers.core import made_by
from jaxnn.rules import Rule

BY_VJP = "by jax.vjp"


def as_jax(rule_or_layer: Rule | Layer) -> Callable:
    """A rule or a layer as a function whose gradient is the hand-written one.

    A rule becomes `f(*args) -> y`. A layer becomes
    `f(params, state, x, *, key=None, train) -> (y, state)`, its `forward` without the
    cache, with gradients for params and x; the new state has none (running averages are
    not trained), nor have whole numbers, masks and keys.

    The function goes through `grad`, `vjp`, `jit`, `vmap`, `scan` and `checkpoint`.
    `jax.custom_vjp` does not allow `jax.jvp` or `jax.jacfwd`: for those
    differentiate `lambda *args: rule.fwd(*args)[0]`, which is plain JAX.

    >>> from jaxnn.rules import relu
    >>> jax.grad(lambda x: as_jax(relu)(x).sum())(jnp.array([-1.0, 2.0])).tolist()
    [0.0, 1.0]

    Raises:
      JaxnnError: neither a rule nor a layer.
    """
    if isinstance(rule_or_layer, Rule):
        return _with_vjp(rule_or_layer.name, rule_or_layer.fwd, rule_or_layer.bwd)
    if not isinstance(rule_or_layer, Layer):
        raise JaxnnError(
            f"as_jax: got {type(rule_or_layer).__name__}, expected a rule or a layer; "
            "dense(10) rather than dense"
        )
    layer = rule_or_layer
    modes = {train: _layer_with_vjp(layer, train) for train in (True, False)}

    def forward(params, state, x, *, key=None, train: bool):
        return modes[bool(train)](params, state, x, key)

    forward.__name__ = layer.name
    return forward


def from_jax(function: Callable, name: str | None = None) -> Rule:
    """A function of arrays as a rule whose `bwd` is JAX's: no calculus by hand.

    The cache is the pull-back of `jax.vjp`, a pytree of the arrays it kept, so the
    rule works under `jit`, `vmap` and `scan` like any other. Arguments that are not
    float have no cotangent (None).

    Args:
      function: `(*args) -> y`, of arrays or trees of arrays.
      name: of the rule; None takes the function's. " by jax.vjp" is added.

    >>> rule = from_jax(jnp.sinc)
    >>> rule.name
    'sinc by jax.vjp'
    >>> y, cache = rule.fwd(jnp.zeros(2))
    >>> rule.bwd(cache, jnp.ones(2))[0].tolist()
    [0.0, 0.0]
    """

    _check_function("from_jax", function)

    def fwd(*args):
        return jax.vjp(function, *args)

    def bwd(pull_back, dy):
        whole = dtypes.float0  # of the cotangent of what is no float
        return jax.tree.map(lambda d: None if d.dtype == whole else d, pull_back(dy))

    name = name or getattr(function, "__name__", type(function).__name__)
    return Rule(f"{name} {BY_VJP}", fwd, bwd)


def layer_from_jax(
    function: Callable, init: Callable | None = None, name: str | None = None
) -> Layer:
    """A function as a layer whose `backward` is JAX's; `summary` says so.

    Args:
      function: `x -> y`, or `(params, x) -> y` if there is an `init`; x and y have the
        batch axis first.
      init: `(key, in_shape) -> params`, a tree of float arrays; in_shape leaves the
        batch axis out.
      name: of the layer; None takes the function's. " by jax.vjp" is added.

    >>> cube = layer_from_jax(lambda x: x**3, name="cube")
    >>> cube.name
    'cube by jax.vjp'

    Raises:
      JaxnnError: params that are not float.
    """
    _check_function("layer_from_jax", function)
    if init is not None:
        _check_function("layer_from_jax: init", init)
    rule = from_jax(function, name)

    def setup(key, in_shape):
        params = () if init is None else init(key, tuple(in_shape))
        for leaf in map(jnp.asarray, jax.tree.leaves(params)):
            if not is_float(leaf):
                raise JaxnnError(
                    f"{rule.name}: got params of dtype {leaf.dtype}, expected float "
                    "arrays only; keep other values in the function itself"
                )
        x = jax.ShapeDtypeStruct((1, *in_shape), jnp.result_type(float))
        args = (x,) if init is None else (params, x)
        return params, (), jax.eval_shape(function, *args).shape[1:]

    def forward(params, state, x, *, key=None, train):
        del key, train
        y, cache = rule.fwd(x) if init is None else rule.fwd(params, x)
        return y, state, cache

    def backward(cache, dy):
        if init is None:
            return rule.bwd(cache, dy)[0], ()
        dparams, dx = rule.bwd(cache, dy)
        return dx, dparams

    made = made_by(layer_from_jax, (function, init, name), {})
    return Layer(setup, forward, backward, rule.name, made=made)


def _with_vjp(name, fwd, bwd):
    """`fwd` without its cache as a `jax.custom_vjp` with `bwd`."""

    def function(*args):
        return fwd(*jax.tree.map(jnp.asarray, args))[0]

    def forward(*args):
        args = jax.tree.map(jnp.asarray, args)  # numbers and NumPy arrays may come
        y, cache = fwd(*args)
        return y, (cache, jax.tree.map(lambda a: a.ravel()[:0], args))  # their types

    def backward(kept, dy):
        cache, types = kept
        # None, where there is no derivative, stands for zeros of any structure
        return jax.tree.map(
            lambda d, a: None if d is None else d.astype(a.dtype),
            tuple(bwd(cache, dy)), types, is_leaf=lambda d: d is None,
        )  # fmt: skip

    function.__name__ = name
    function = jax.custom_vjp(function)
    function.defvjp(forward, backward)
    return function


def _layer_with_vjp(layer, train):
    def fwd(params, state, x, key):
        y, state, cache = layer.forward(params, state, x, key=key, train=train)
        return (y, state), cache

    def bwd(cache, cotangents):
        dy, _ = cotangents
        dx, dparams = layer.backward(cache, dy)
        return dparams, None, dx, None

    return _with_vjp(layer.name, fwd, bwd)


def _check_function(where, function):
    if not callable(function):
        raise JaxnnError(
            f"{where}: got {type(function).__name__}, expected a function of arrays"
        )
