import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn.combine import (
    freeze,
    parallel,
    remat,
    repeat,
    residual,
    serial,
    share,
    siamese,
    stack,
)
from jaxnn.errors import JaxnnError
from jaxnn.layers import batch_norm, dense, flatten, relu
from jaxnn.rules import Rule
from tests.layers.cases import KEY, traced_init


def ran(layer, in_shape, x_shape=None, *, dtype=float, params_of=None):
    """Trace init, then forward."""

    def forward():
        params, state, _ = (params_of or layer).init(KEY, in_shape)
        x = jnp.ones(x_shape or (2, *in_shape), dtype)
        layer.forward(params, state, x, key=KEY, train=True)

    return jax.eval_shape(forward)


def flat():
    """A layer that says it keeps the shape and does not."""
    return flatten._replace(init=lambda key, in_shape: ((), (), in_shape))


def backward(layer, in_shape):
    params, state, _ = layer.init(KEY, in_shape)
    y, _, cache = layer.forward(params, state, jnp.ones((2, *in_shape)), train=True)
    layer.backward(cache, y)


def frozen(layer, params, state=None):
    return lambda: freeze(layer, params, state).init(KEY, (4,))


PARAMS = {"w": np.ones((4, 3)), "b": np.ones(3)}
ONE_SIDED = Rule("first", lambda a, b: (a, ()), lambda _, dy: (dy, None))
ERRORS = {
    "serial: not a layer": (lambda: serial(relu, dense),
        r"serial: got function, expected layers; .*dense\(10\) rather than dense"),
    "serial: a list": (lambda: serial([relu]), r"serial: got list.*serial\(\*layers\)"),
    "residual: not a layer": (lambda: residual(dense), r"residual: got function"),
    "residual: shapes": (lambda: traced_init(residual(dense(3)), (4,)),
        r"residual\(dense\(3\)\): x has shape \(4,\) but inner makes \(3,\).*"
        r"residual\(inner, projection\)"),
    "residual: paths differ": (lambda: traced_init(residual(dense(3), dense(2)), (4,)),
        r"sum: the branches make shapes \(1, 3\) and \(1, 2\).*same shape everywhere"),
    "parallel: nothing": (lambda: parallel(), r"parallel: got no branches"),
    "parallel: unknown merge": (lambda: parallel(relu, merge="add"),
        r"unknown merge 'add'\. Valid names: concatenate, maximum, multiply, sum"),
    "parallel: would broadcast": (
        lambda: traced_init(parallel(dense(3), dense(1)), (4,)),
        r"sum: the branches make shapes \(1, 3\) and \(1, 1\)"),
    "parallel: not even but for the last axis": (
        lambda: traced_init(parallel(relu, flatten, merge="concatenate"), (2, 3)),
        r"concatenate: the branches make shapes \(1, 2, 3\) and \(1, 6\).*last axis"),
    "serial: fewer states": (
        lambda: serial(relu).forward(((),), (), jnp.ones((2, 3)), train=True),
        r"serial: got state for 0 layers, expected 1"),
    "parallel: fewer params": (
        lambda: ran(parallel(relu, relu), (3,), params_of=parallel(relu)),
        r"parallel: got params for 1 layers, expected 2; were they made by another"),
    "parallel: a merge without gradient": (
        lambda: backward(parallel(relu, relu, merge=ONE_SIDED), (3,)),
        r"merge first: has no gradient for branch 1"),
    "stack: no depth": (lambda: stack(relu, 0),
        r"stack\(relu, 0\): depth must be at least 1, a whole number"),
    "stack: shape": (lambda: traced_init(stack(dense(3), 2), (4,)),
        r"stack\(dense\(3\), 2\): the layer makes shape \(3,\) of \(4,\), expected the "
        r"same"),
    "stack: other depth": (
        lambda: ran(stack(dense(3), 2), (3,), params_of=stack(dense(3), 4)),
        r"stack\(dense\(3\), 2\): got an array of shape \(4, 3\).*leading axis of 2"),
    "stack: not stacked": (lambda: ran(stack(dense(3), 2), (3,), params_of=dense(3)),
        r"stack\(dense\(3\), 2\): expected params of the form {'stacked': \.\.\.}"),
    "stack: dtype": (lambda: ran(stack(dense(3), 2), (3,), dtype=jnp.float32),
        r"the layer makes dtype float64 of float32, expected the same"),
    "stack: shape at run time": (lambda: ran(stack(flat(), 2), (3, 2)),
        r"the layer makes shape \(2, 6\) of \(2, 3, 2\)"),
    "repeat: no depth": (lambda: repeat(relu, True), r"repeat\(relu, True\): depth"),
    "share: not used": (lambda: traced_init(share(dense(3), lambda d: relu), (4,)),
        r"share\(dense\(3\)\): the network that build made does not use it"),
    "share: other features": (
        lambda: traced_init(share(dense(3), lambda d: serial(d, d)), (4,)),
        r"share\(dense\(3\)\): shared parameters of shapes .*\(4, 3\).* in its first "
        r"place but .*\(3, 3\).* in another; expected inputs of the same features"),
    "share: not a layer": (
        lambda: share(dense, lambda d: d), r"share: got function, expected a layer"),
    "share: frozen in one place": (
        lambda: traced_init(share(dense(4), lambda d: serial(d, freeze(d))), (4,)),
        r"share\(dense\(4\)\): frozen in some places only; freeze what is shared"),
    "share: params of another": (
        lambda: ran(share(relu, lambda d: d), (3,), params_of=dense(3)),
        r"share\(relu\): expected params shared and rest"),
    "freeze: other width": (frozen(dense(2), PARAMS),
        r"freeze\(dense\(2\)\): got params of"),
    "freeze: no bias": (frozen(dense(3, bias=False), PARAMS), r"got params of shapes"),
    "freeze: statistics missing": (
        frozen(batch_norm(), {"gamma": np.ones(4), "beta": np.ones(4)}),
        r"freeze\(batch_norm\): got state of shapes \(\), expected .*mean"),
    "freeze: params missing": (frozen(dense(3), None, ()),
        r"got params of shapes \(\), expected"),
    "siamese: no axis": (lambda: traced_init(siamese(relu), ()),
        r"siamese\(relu\): got inputs of shape \(\).*expected \(n, \.\.\.\)"),
}  # fmt: skip


@pytest.mark.parametrize(("call", "message"), ERRORS.values(), ids=ERRORS)
def test_error_says_where_got_and_expected(call, message):
    with pytest.raises(JaxnnError, match=message):
        call()


def test_notes_lead_to_the_layer_through_every_combinator():
    inner = repeat(remat(residual(share(dense(3), lambda d: d))), 2)
    net = serial(relu, parallel(relu, stack(inner, 2)))
    with pytest.raises(JaxnnError, match="5 features") as caught:
        ran(net, (3,), (2, 5))
    notes = [note.split(":")[0] for note in caught.value.__notes__]
    words = "0 share, 0 residual, 0 remat, 0 repeat, 0 stack, 1 parallel, 1 serial"
    wanted = [word.split() for word in words.split(", ")]
    assert notes[:7] == [f"in layer {i} of {name}" for i, name in wanted]


def test_notes_of_init():
    with pytest.raises(JaxnnError, match="residual") as caught:
        traced_init(serial(dense(3), residual(dense(4))), (2,))
    assert caught.value.__notes__[:1] == ["in layer 1 of serial: residual(dense(4))"]


def test_notes_of_backward():
    net = serial(relu, residual(dense(3)))
    params, state, _ = net.init(KEY, (3,))
    _, _, cache = net.forward(params, state, jnp.ones((2, 3)), train=True)
    with pytest.raises(TypeError) as caught:
        net.backward(cache, jnp.ones((2, 4)))
    notes = [note for note in caught.value.__notes__ if note.startswith("in ")]
    assert notes == [
        "in layer 0 of residual: dense(3)",
        "in layer 1 of serial: residual(dense(3))",
    ]


def test_profiles_name_the_work_of_every_layer():
    net = serial(relu, parallel(dense(3), stack(dense(3), 2)))
    params, state = traced_init(net, (3,))

    def step(params, state, x):
        y, _, cache = net.forward(params, state, x, train=True)
        return net.backward(cache, y)

    x = jax.ShapeDtypeStruct((2, 3), float)
    text = jax.jit(step).lower(params, state, x).as_text(debug_info=True)
    for way in ("fwd", "bwd"):
        assert f"{way}/0_relu" in text
        outer = f"{way}/1_parallel(dense(3), stack(dense(3), 2))"
        assert f"{outer}/{way}/0_dense(3)" in text
