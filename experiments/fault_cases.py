"""Forty networks with a known fault each, and ten that are sound but look odd.

A fault in a layer shows when the row `VICTIM` comes by, whose entries are large. It is
found again inside by that: the layers with a fault stand where nothing normalizes yet.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnn import defenses, graph, remat, residual, serial, stack
from jaxnn.layers import (
    Layer,
    avg_pool,
    batch_norm,
    conv,
    dense,
    depthwise_conv,
    embedding,
    flatten,
    global_avg_pool,
    group_norm,
    gru,
    layer_norm,
    log_softmax,
    lstm,
    max_pool,
    multi_head_attention,
    pointwise,
    relu,
    reshape,
    rnn,
    softmax,
    softplus,
    tanh,
)
from jaxnn.losses import nll, softmax_cross_entropy
from jaxnn.regularize import input_noise
from jaxnn.rules import Rule

ROWS, BATCH, FEATURES, CLASSES, VICTIM = 96, 16, 12, 3, 37
LARGE = 50.0  # no entry of another row is as large
KINDS: dict[str, tuple[Callable, str]] = {
    "log": (lambda v, hit: v + jnp.log(jnp.where(hit, 0.0, 1.0)), "log"),
    "divide": (lambda v, hit: v + 1 / jnp.where(hit, 0.0, 1.0), "div"),
    "root": (lambda v, hit: v + jnp.sqrt(jnp.where(hit, -1.0, 1.0)), "sqrt"),
    "rsqrt": (lambda v, hit: v * jax.lax.rsqrt(jnp.where(hit, 0.0, 1.0)), "rsqrt"),
    "exp": (lambda v, hit: v + jnp.exp(jnp.where(hit, 1e4, 0.0)), "exp"),
    "power": (lambda v, hit: v + jnp.where(hit, 0.0, 1.0) ** -2, "integer_pow"),
    "nan": (lambda v, hit: jnp.where(hit, jnp.nan, v), "select_n"),
    "inf": (lambda v, hit: jnp.where(hit, jnp.inf, v), "select_n"),
    "0 times inf": (
        lambda v, hit: v + jnp.log(jnp.where(hit, 0.0, 1.0)) * 0.0, "log"
    ),
}  # fmt: skip
"""Kind of fault -> what it does to a value where it hits, and the operation."""


class Case(NamedTuple):
    """A network, its data, and what the guard should say."""

    net: Layer
    part: str
    layer: str
    ops: tuple[str, ...]
    row: int | None = VICTIM
    step: int = 1
    loss: Any = softmax_cross_entropy
    optimizer: Any = optax.sgd(1e-3)
    options: Any = {}  # noqa: RUF012 - a tuple's default, never changed
    tokens: bool = False


def dataset(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Rows around 0, one of them large; or token numbers, 7 in one row only."""
    rng = np.random.default_rng(0)
    y = (np.arange(ROWS) % CLASSES).astype(np.int32)
    if case.tokens:
        x = rng.integers(0, 7, (ROWS, FEATURES))
        x[VICTIM, 4] = 7 if case.row is not None else 0
        return x.astype(np.int32), y
    x = rng.normal(size=(ROWS, FEATURES)).astype(np.float32)
    if case.row is not None:
        x[case.row] *= 1e4
    return x, y


def _hit(x, like):
    """Which rows are large, as (B, 1, ...) beside `like`."""
    large = (jnp.abs(x) > LARGE).any(tuple(range(1, x.ndim)))
    return large.reshape(large.shape + (1,) * (like.ndim - 1))


def broken(layer: Layer, direction: str, kind: str, hit: Callable = _hit) -> Layer:
    """`layer` with a fault in one direction, in the rows that are hit."""
    spoil = KINDS[kind][0]

    def forward(params, state, x, *, key=None, train):
        y, state, cache = layer.forward(params, state, x, key=key, train=train)
        spoilt = spoil(y, hit(x, y)) if direction == "forward" else y
        return spoilt, state, (cache, x)

    def backward(cache, dy):
        cache, x = cache
        dx, dparams = layer.backward(cache, dy)
        if direction == "forward":
            return dx, dparams
        # both: the first layer's dx goes nowhere
        return spoil(dx, hit(x, dx)), jax.tree.map(
            lambda d: spoil(d, hit(x, d).any()), dparams
        )

    return layer._replace(forward=forward, backward=backward, parts=())


def case_of(before, layer, after, direction, kind, hit=_hit, **more) -> Case:
    """A serial network with a broken layer in it."""
    bad = broken(layer, direction, kind, hit)
    net = serial(*before, bad, *after, dense(CLASSES))
    name = f"{len(before)} {bad.name}"
    return Case(net, direction, name, (KINDS[kind][1],), **more)


IMAGE = (reshape(4, 3, 1),)
SERIES = (reshape(4, 3),)


def _unsafe_log() -> Layer:
    """A user's own rule: fine unless a row's mean square is huge."""

    def fwd(x):  # x (B, N)
        share = jnp.maximum(1 - jnp.square(x).mean(-1, keepdims=True) / 1e4, 0)
        return x + jnp.log(share), share

    return pointwise(Rule("log_share", fwd, lambda share, dy: (dy,)))


def _unsafe_norm() -> Layer:
    """x / |x| whose backward pass divides by |x|^3, which overflows."""

    def fwd(x):
        size = jnp.sqrt(jnp.square(x).sum(-1, keepdims=True))
        far = jnp.where(size > LARGE, jnp.zeros_like(size), size)
        return x / size, (x, far)

    def bwd(cache, dy):
        x, size = cache
        along = (x * dy).sum(-1, keepdims=True)
        return ((dy * size**2 - x * along) / size**3,)

    return pointwise(Rule("unit", fwd, bwd))


def _of_graph(direction: str) -> Layer:
    """A layer made of graph nodes, one of which is broken."""
    spoil = KINDS["log"][0]

    def fwd(x):
        return (spoil(x, _hit(x, x)) if direction == "forward" else x), x

    def bwd(x, dy):
        return ((spoil(dy, _hit(x, dy)) if direction == "backward" else dy),)

    def forward(params, state, x, *, key=None, train):
        node = graph.feed("x")
        y = graph.apply(Rule("node", fwd, bwd), node * 1.0, name="broken")
        value = graph.run(y, {node: x})
        return value, state, x

    def backward(cache, dy):
        node = graph.feed("x")
        y = graph.apply(Rule("node", fwd, bwd), node * 1.0, name="broken")
        _, dx = graph.bprop(y, node, {node: cache}, dy=dy)
        return dx, ()

    return Layer(lambda key, s: ((), (), tuple(s)), forward, backward, "graph")


def _graph_case(direction: str) -> Case:
    net = serial(_of_graph(direction), dense(CLASSES))
    return Case(net, direction, "0 graph > broken", ("log",))


def _masked(x):
    """Softmax over what a mask leaves; of the large row it leaves nothing."""
    hidden = jnp.arange(x.shape[-1])[None] % 2 == 0
    hidden = hidden | _hit(x, x)
    return jax.nn.softmax(jnp.where(hidden, -jnp.inf, x), axis=-1)


def _tuple_loss(pred, target, **_):
    """Cross-entropy of probabilities: log of 0 for a class that is ruled out."""
    share = jax.nn.softmax(pred)
    hit = (jnp.abs(pred) > LARGE).any(-1, keepdims=True)
    picked = jnp.take_along_axis(share, target[:, None], 1)
    value = -jnp.log(jnp.where(hit, 0.0, picked)).mean()
    return value, softmax_cross_entropy(pred, target)[1]


def _bad_dpred(pred, target, **_):
    """A loss whose value is right and whose gradient divides by 0."""
    value, dpred = softmax_cross_entropy(pred, target)
    hit = (jnp.abs(pred) > LARGE).any(-1, keepdims=True)
    return value, dpred / jnp.where(hit, 0.0, 1.0)


def _at_step(step: int, change: Callable) -> Any:
    """An optimizer that spoils its updates at one step."""

    def init(params):
        del params
        return jnp.zeros((), jnp.int32)

    def update(updates, state, params=None):
        del params
        spoilt = jax.tree.map(lambda g: change(g, state == step - 1), updates)
        return jax.tree.map(lambda g: -1e-3 * g, spoilt), state + 1

    return optax.GradientTransformation(init, update)


def _other(optimizer=None, part="update", ops=("div",), step=3, **more) -> Case:
    net = serial(dense(5), tanh, dense(CLASSES))
    given = {"optimizer": optimizer} if optimizer is not None else {}
    return Case(net, part, "", ops, row=None, step=step, **given, **more)


def _bad_penalty(params):
    """The norm of the first bias, which begins at 0: its gradient is 0 / 0."""
    size = jnp.sqrt(sum(jnp.square(a).sum() for a in jax.tree.leaves(params[:0])) + 0.0)
    leaves, structure = jax.tree.flatten(params)
    first = leaves[0]
    grads = [
        first / jnp.sqrt(jnp.square(first).sum()),
        *map(jnp.zeros_like, leaves[1:]),
    ]
    return size, structure.unflatten(grads)


def _augment_case() -> Case:
    noise = input_noise(0.0)
    options = {"augment": lambda key, x: noise(key, KINDS["root"][0](x, _hit(x, x)))}
    net = serial(dense(5), relu, dense(CLASSES))
    return Case(net, "augmentation", "", ("sqrt",), options=options)


def _inner_attack() -> Case:
    bad = broken(dense(5), "backward", "nan")
    net = serial(bad, tanh, dense(CLASSES))
    options = {"defense": defenses.pgd(0.01, 3, box=None)}
    return Case(net, "backward", f"0 {bad.name}", ("select_n",), options=options)


def _token(x, like):
    hit = (x == 7).any(tuple(range(1, x.ndim)))
    if like.shape[0] != x.shape[0]:
        return hit.any()  # a gradient of the table
    return hit.reshape(hit.shape + (1,) * (like.ndim - 1))


def _embedded(direction) -> Case:
    after = (flatten,)
    kind = "log" if direction == "forward" else "divide"
    case = case_of((), embedding(8, 4), after, direction, kind, _token)
    return case._replace(tokens=True)


def _deep(kind) -> Case:
    """A broken layer in a scanned and recomputed stack."""
    bad = broken(tanh, "forward", kind)
    inner = serial(bad, dense(FEATURES))
    net = serial(stack(remat(inner), 3), dense(CLASSES))
    place = f"0 stack({remat(inner).name}, 3) > 0 {remat(inner).name}"
    return Case(net, "forward", f"{place} > 0 {inner.name} > 0 tanh", (KINDS[kind][1],))


F, B = "forward", "backward"
PLAIN: dict[str, tuple] = {  # what stands before the broken layer, it, after it, kind
    "forward: dense, 1 / 0": ((), dense(5), (relu,), "divide"),
    "forward: conv, 1 / 0": (IMAGE, conv(3), (flatten,), "divide"),
    "forward: depthwise conv, NaN": (IMAGE, depthwise_conv(), (flatten,), "nan"),
    "forward: max pool, root of -1": (IMAGE, max_pool(2), (flatten,), "root"),
    "forward: average pool, exp": (IMAGE, avg_pool(2), (flatten,), "exp"),
    "forward: global pool, power": (IMAGE, global_avg_pool, (), "power"),
    "forward: batch norm, +inf": ((), batch_norm(), (relu,), "inf"),
    "forward: layer norm, rsqrt of 0": ((), layer_norm(), (relu,), "rsqrt"),
    "forward: group norm, 1 / 0": (IMAGE, group_norm(), (flatten,), "divide"),
    "forward: LSTM, log of 0": (SERIES, lstm(4), (), "log"),
    "forward: GRU, NaN": (SERIES, gru(4), (), "nan"),
    "forward: RNN, exp": (SERIES, rnn(4), (), "exp"),
    "forward: attention, root of -1": (
        SERIES, multi_head_attention(1), (flatten,), "root"
    ),
    "backward: dense, 1 / 0": ((), dense(5), (relu,), "divide"),
    "backward: conv, log of 0": (IMAGE, conv(3), (flatten,), "log"),
    "backward: max pool, NaN": ((*IMAGE, conv(2)), max_pool(2), (flatten,), "nan"),
    "backward: batch norm, rsqrt of 0": ((dense(6),), batch_norm(), (relu,), "rsqrt"),
    "backward: layer norm, 1 / 0": ((dense(6),), layer_norm(), (relu,), "divide"),
    "backward: LSTM, exp": ((*SERIES, dense(3)), lstm(4), (), "exp"),
    "backward: GRU, root of -1": ((*SERIES, dense(3)), gru(4), (), "root"),
    "backward: attention, log of 0": (
        (*SERIES, dense(3)), multi_head_attention(1), (flatten,), "log"
    ),
    "backward: softplus, power": ((dense(5),), softplus, (), "power"),
}  # fmt: skip


def _plain(direction: str) -> dict[str, Callable[[], Case]]:
    return {
        name: partial(case_of, before, layer, after, direction, kind)
        for name, (before, layer, after, kind) in PLAIN.items()
        if name.startswith(direction)
    }


CASES: dict[str, Callable[[], Case]] = {
    **_plain(F),
    "forward: attention row all masked": lambda: Case(
        serial(pointwise(Rule("masked", lambda x: (_masked(x), ()),
                              lambda _, dy: (dy,))), dense(CLASSES)),
        F, "0 masked", ("sub", "div", "reduce_max", "exp"),
    ),
    "forward: embedding, log of 0": lambda: _embedded(F),
    "forward: graph node, log of 0": lambda: _graph_case(F),
    "forward: a user's rule, log of 0": lambda: Case(
        serial(_unsafe_log(), dense(CLASSES)), F, "0 log_share", ("log",)
    ),
    "forward: scanned and recomputed, exp": lambda: _deep("exp"),
    "forward: inside a residual, 0 times inf": lambda: Case(
        serial(residual(broken(tanh, F, "0 times inf")), dense(CLASSES)),
        F, "0 residual(tanh) > 0 tanh", ("log",),
    ),
    "forward: loss, log of 0": lambda: Case(
        serial(dense(CLASSES)), "loss", "", ("log",), loss=_tuple_loss
    ),
    **_plain(B),
    "backward: embedding, 1 / 0": lambda: _embedded(B),
    "backward: graph node, log of 0": lambda: Case(
        serial(dense(FEATURES), _of_graph(B), dense(CLASSES)),
        B, "1 graph > broken", ("log",),
    ),
    "backward: a user's rule, 0 / 0": lambda: Case(
        serial(dense(5), _unsafe_norm(), dense(CLASSES)), B, "1 unit", ("div",)
    ),
    "backward: attack in the step, NaN": _inner_attack,
    "backward: gradient of the loss, 1 / 0": lambda: Case(
        serial(dense(CLASSES)), "loss", "", ("div",), loss=_bad_dpred
    ),
    "optimizer: 1 / 0 at step 3": lambda: _other(
        _at_step(3, lambda g, now: g / jnp.where(now, 0.0, 1.0))
    ),
    "optimizer: log of 0 at step 2": lambda: _other(
        _at_step(2, lambda g, now: g + jnp.log(jnp.where(now, 0.0, 1.0))),
        ops=("log",), step=2,
    ),
    "optimizer: schedule is NaN at step 4": lambda: _other(
        optax.sgd(lambda n: jnp.where(n == 3, jnp.nan, 1e-3)), ops=("select_n",), step=4
    ),
    "projection: 0 / 0": lambda: _other(
        step=1,
        options={"project": lambda p: jax.tree.map(lambda a: a / (a - a), p)},
    ),
    "regularizer: norm of a bias of 0": lambda: _other(
        part="regularizer", step=1, options={"penalty": _bad_penalty}
    ),
    "augmentation: root of -1": _augment_case,
}  # fmt: skip
"""Name of the fault -> the case."""


def _mask_layer() -> Layer:
    """Puts -inf where it masks, as it should, for the softmax behind it."""
    hide = jnp.arange(FEATURES)[None] % 3 == 0
    rule = Rule(
        "mask",
        lambda x: (jnp.where(hide, -jnp.inf, x), ()),
        lambda _, dy: (jnp.where(hide, 0, dy),),
    )
    return pointwise(rule)


def _sound(*layers, **more) -> Callable[[], Case]:
    return lambda: Case(serial(*layers, dense(CLASSES)), "", "", (), row=None, **more)


def _masked_logits(pred, target, **_):
    """A loss that rules out one more class by -inf."""
    wide = jnp.concatenate([pred, jnp.full((len(pred), 1), -jnp.inf, pred.dtype)], 1)
    value, dwide = softmax_cross_entropy(wide, target)
    return value, dwide[:, :-1]


HEALTHY: dict[str, Callable[[], Case]] = {
    "mask of -inf before a softmax": _sound(_mask_layer(), softmax),
    "causal attention": _sound(*SERIES, multi_head_attention(1, causal=True), flatten),
    "class ruled out by -inf in the loss": _sound(dense(5), loss=_masked_logits),
    "batch norm of constant features": _sound(
        pointwise(Rule("zeros", lambda x: (x * 0, ()), lambda _, dy: (dy * 0,))),
        batch_norm(), relu,
    ),
    "relu network, large rate": _sound(dense(16), relu, optimizer=optax.sgd(1.0)),
    "log_softmax and nll": lambda: Case(
        serial(dense(CLASSES), log_softmax), "", "", (), row=None, loss=nll
    ),
    "LSTM": _sound(*SERIES, lstm(4)),
    "conv, batch norm, pool": _sound(
        *IMAGE, conv(3), batch_norm(), relu, max_pool(2), flatten
    ),
    "stack of remat": _sound(stack(remat(serial(dense(FEATURES), tanh)), 3)),
    "training on attacked images": _sound(
        dense(8), relu, options={"defense": defenses.pgd(0.1, 3)}
    ),
}  # fmt: skip
"""Name -> a run in which nothing is wrong."""
