"""Faults and sound runs beside those of `experiments.fault_cases`: other places.

Layers of JAX's own derivatives, what happens to a batch and to the weights before the
network, noise, and operations that overflow or leave their domain.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.fault_cases import (
    CLASSES,
    FEATURES,
    SERIES,
    Case,
    _at_step,
    _hit,
    broken,
)
from jaxnn import defenses, layer_from_jax, remat, residual, serial, stack
from jaxnn.layers import (
    Layer,
    dense,
    dropout,
    embedding,
    flatten,
    group_norm,
    layer_norm,
    multi_head_attention,
    pointwise,
    relu,
    softmax,
    tanh,
)
from jaxnn.losses import softmax_cross_entropy
from jaxnn.regularize import input_noise, mixup, weight_noise
from jaxnn.rules import Rule

F, B = "forward", "backward"
SAME = pointwise(Rule("same", lambda x: (x, ()), lambda _, dy: (dy,)))


@jax.custom_vjp
def _bad_on_the_way_back(x):
    return x / 2


_bad_on_the_way_back.defvjp(
    lambda x: (x / 2, x),
    lambda x, dy: (dy / jnp.where(_hit(x, x), 0.0, 2.0),),
)


def _where_root(x):
    hit = _hit(x, x)
    return x + jnp.where(hit, 0, jnp.sqrt(jnp.square(x) * jnp.where(hit, 0.0, 1.0)))


def _length(x):
    kept = x * jnp.where(_hit(x, x), 0.0, 1.0)
    return x / 8 + jnp.sqrt(jnp.square(kept).sum(-1, keepdims=True))


def by_jax(function, part, *ops, name="mine") -> Case:
    """A layer whose derivative is JAX's, behind a dense one."""
    layer = layer_from_jax(function, name=name)
    net = serial(dense(FEATURES), layer, dense(CLASSES))
    return Case(net, part, f"1 {layer.name}", ops)


def by_jax_deep(function, part, *ops) -> Case:
    """The same in a scanned stack."""
    layer = layer_from_jax(function, name="mine")
    inner = serial(SAME, dense(FEATURES), layer)
    net = serial(dense(FEATURES), stack(inner, 2), dense(CLASSES))
    scanned = stack(inner, 2).name
    return Case(net, part, f"1 {scanned} > 0 {inner.name} > 2 {layer.name}", ops)


def out_of_domain(function, safe, edge, *ops) -> Case:
    """A user's rule whose function leaves its domain, or overflows, in one row."""

    def fwd(x):
        large = edge(float(jnp.finfo(x.dtype).max)) if callable(edge) else edge
        return x + function(jnp.where(_hit(x, x), large, safe)), ()

    rule = pointwise(Rule("mine", fwd, lambda _, dy: (dy,)))
    return Case(serial(rule, dense(CLASSES)), F, "0 mine", ops)


def phase(part, ops, sample=True, **options) -> Case:
    """A fault before the network: augmentation, mixup or noise on the weights."""
    net = serial(dense(5), relu, dense(CLASSES))
    row = {} if sample else {"row": None}
    return Case(net, part, "", ops, options=options, **row)


def _spread_rows(key, x):
    """To [0, 1] by each row's range; a constant row has none."""
    del key
    x = jnp.where(_hit(x, x), 0.3, x)
    low, high = x.min(-1, keepdims=True), x.max(-1, keepdims=True)
    return (x - low) / (high - low)


def _bad_mixup(key, x, y, weights):
    del key
    return x + jnp.log(jnp.where(_hit(x, x), 0.0, 1.0)), y, weights


def noisy(which: Callable, name: str) -> Layer:
    """A layer that divides by `which(key, rows)`, whatever the rows hold."""

    def forward(params, state, x, *, key=None, train):
        divisor = which(key, len(x)).reshape(-1, 1).astype(x.dtype)
        return (x / divisor if train else x), state, divisor

    def backward(divisor, dy):
        return dy / divisor, ()

    return Layer(lambda key, s: ((), (), tuple(s)), forward, backward, name)


def of_noise(which) -> Case:
    """A fault that comes of no row."""
    net = serial(dense(5), noisy(which, "noisy"), dense(CLASSES))
    return Case(net, F, "1 noisy", ("div",), row=None)


def _some_row(key, rows):
    return jnp.arange(rows) != jax.random.randint(key, (), 0, rows)


def sometimes(key, rows, salt=0):
    """0 in the third row with every other key; `salt` is such that the first has it."""
    coin = jax.random.bernoulli(jax.random.fold_in(key, salt))
    return (jnp.arange(rows) != 3) | coin


def _third_row(key, rows):
    del key
    return jnp.arange(rows) != 3


def _penalty_root(params):
    """sqrt of the first bias: infinite slope at 0."""
    leaves, structure = jax.tree.flatten(params)

    def value(leaves):
        return jnp.sqrt(jnp.abs(leaves[0]) + 0.0).sum()

    grads = jax.grad(value)(leaves)
    return value(leaves), structure.unflatten(grads)


def _to_the_power(pred, target, **_):
    value, dpred = softmax_cross_entropy(pred, target)
    large = _hit(pred, pred)
    return value + (jnp.where(large, 0.0, 1.0) ** -1.5).mean() - 1, dpred


def _far_too_large(g, now):
    large = jnp.where(now, float(jnp.finfo(g.dtype).max) ** 0.9, 1)
    return g * large * large


def plain(part, ops, step, **options) -> Case:
    """A fault that no row makes."""
    net = serial(dense(5), tanh, dense(CLASSES))
    optimizer = options.pop("optimizer", optax.sgd(1e-3))
    return Case(
        net, part, "", ops, row=None, step=step, optimizer=optimizer, options=options
    )


def _deep_residual(direction, kind, op) -> Case:
    bad = broken(dense(FEATURES), direction, kind)
    inner = residual(bad)
    net = serial(remat(serial(inner, SAME)), dense(CLASSES))
    outer = remat(serial(inner, SAME)).name
    place = f"0 {outer} > 0 serial(2 layers) > 0 {inner.name} > 0 {bad.name}"
    return Case(net, direction, place, (op,))


SLOPES = ("div", "rsqrt", "mul", "pow", "integer_pow", "sqrt")
FRESH: dict[str, Callable[[], Case]] = {
    "custom_vjp in a stack": lambda: by_jax_deep(_bad_on_the_way_back, B, "div"),
    "where of a root": lambda: by_jax(_where_root, B, *SLOPES),
    "checkpointed": lambda: by_jax(jax.checkpoint(_where_root), B, *SLOPES),
    "length of a row of zeros": lambda: by_jax(_length, B, *SLOPES),
    "arccos at 1": lambda: by_jax(
        lambda x: x + jnp.arccos(_unit(x)), B, *SLOPES
    ),
    "log by jax in a stack": lambda: by_jax_deep(
        lambda x: x + jnp.log(jnp.where(_hit(x, x), 0.0, 1.0)), F, "log"
    ),
    "augmentation: a constant row": lambda: phase(
        "augmentation", ("div",), augment=_spread_rows
    ),
    "augmentation: noise of inf": lambda: phase(
        "augmentation", ("mul",), sample=False, augment=input_noise(np.inf)
    ),
    "mixup: log of 0": lambda: phase("mixup", ("log",), mixup=_bad_mixup),
    "weight noise: inf": lambda: phase(
        "weight noise", ("mul",), sample=False,
        weight_noise=lambda key, p: jax.tree.map(
            lambda a: a + np.inf * jax.random.normal(key, a.shape, a.dtype), p
        ),
    ),
    "a layer's own noise": lambda: of_noise(_some_row),
    "a place in the batch": lambda: of_noise(_third_row),
    "product that overflows": lambda: out_of_domain(
        lambda v: v * (v * 0.5), 1.0, lambda most: most**0.6, "mul"
    ),
    "arcsin of 2": lambda: out_of_domain(jnp.arcsin, 0.5, 2.0, "asin"),
    "product along an axis": lambda: out_of_domain(
        lambda v: jnp.prod(v * jnp.ones((1, 8)), -1, keepdims=True), 1.0,
        lambda most: most**0.3,
        "reduce_prod",
    ),
    "quotient of a small number": lambda: out_of_domain(
        lambda v: 10.0 / v, 1.0, lambda most: 5 / most, "div"
    ),
    "residual within remat, back": lambda: _deep_residual(B, "divide", "div"),
    "loss: power of 0": lambda: Case(
        serial(dense(CLASSES)), "loss", "", ("pow",), loss=_to_the_power
    ),
    "regularizer: root of 0": lambda: plain(
        "regularizer", SLOPES, 1, penalty=_penalty_root
    ),
    "update: overflow of a product": lambda: plain(
        "update", ("mul",), 2,
        optimizer=_at_step(2, _far_too_large),
    ),
    "projection: log at step 1": lambda: plain(
        "update", ("log",), 1, project=lambda p: jax.tree.map(jnp.log, p)
    ),
}  # fmt: skip
"""Name of the fault -> the case."""


def _unit(x):
    """0.5 x / (1 + |x|), and 1 in a large row, with a slope."""
    hit = _hit(x, x)
    share = x / (1 + jnp.abs(x))
    return share * jnp.where(hit, 0.0, 0.5) + jnp.where(hit, 1.0, 0.0)


WORDS = {
    "where of a root": "double where",
    "arccos at 1": "slope|derivative",
    "augmentation: a constant row": "augmentation.*0 / 0.*constant",
    "augmentation: noise of inf": "augmentation",
    "weight noise: inf": "noise on the weights",
    "product that overflows": "product of finite numbers overflows",
    "arcsin of 2": r"arcsin outside \[-1, 1\]",
    "quotient of a small number": "denominator is nearly 0",
    "product along an axis": "product along an axis overflows",
    "loss: power of 0": "0 to a negative power",
    "update: overflow of a product": "optimizer.*product of finite numbers",
    "log by jax in a stack": "log of 0",
}
"""Name of the fault -> what the advice has to say."""


def _sound(*layers, **more) -> Callable[[], Case]:
    return lambda: Case(serial(*layers, dense(CLASSES)), "", "", (), row=None, **more)


def _double_where(x):
    safe = jnp.where(x > 0, x, 1.0)
    return jnp.where(x > 0, jnp.sqrt(safe), 0.0)


def _options(**options) -> Callable[[], Case]:
    return _sound(dense(6), relu, options=options)


SOUND: dict[str, Callable[[], Case]] = {
    "double where by jax": _sound(dense(6), layer_from_jax(_double_where)),
    "double where in a stack": _sound(
        stack(serial(layer_from_jax(_double_where), dense(FEATURES)), 3)
    ),
    "softmax with masks by jax": _sound(
        layer_from_jax(
            lambda x: jax.nn.softmax(
                jnp.where(jnp.arange(FEATURES)[None] % 2 == 0, -jnp.inf, x), -1
            )
        )
    ),
    "dropout": _sound(dense(6), dropout(0.5)),
    "noise on the input": _options(augment=input_noise(0.5)),
    "mixup": _options(mixup=mixup(0.4, CLASSES)),
    "noise on the weights": _options(weight_noise=weight_noise(0.1)),
    "layer norm of constant rows": _sound(
        pointwise(Rule("ones", lambda x: (x * 0 + 1, ()), lambda _, dy: (dy * 0,))),
        layer_norm(),
    ),
    "group norm": _sound(*SERIES, group_norm(1), flatten),
    "embedding": lambda: Case(
        serial(embedding(8, 4), flatten, dense(CLASSES)), "", "", (), row=None,
        tokens=True,
    ),
    "attention, causal": _sound(*SERIES, multi_head_attention(1, causal=True), flatten),
    "softmax within": _sound(dense(6), softmax),
    "residual within remat": _sound(remat(residual(dense(FEATURES)))),
    "huge logits": _sound(
        pointwise(Rule("times", lambda x: (x * 1e6, ()), lambda _, dy: (dy * 1e6,))),
        optimizer=optax.sgd(1e-12),
    ),
    "FGSM": _options(defense=defenses.fgsm_rs(0.1)),
    "Adam, large rate": _sound(dense(8), relu, optimizer=optax.adam(0.3)),
}  # fmt: skip
"""Name -> a run in which nothing is wrong."""
