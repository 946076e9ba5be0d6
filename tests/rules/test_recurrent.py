"""What the table of cases cannot say of the recurrent rules."""

import jax
import numpy as np
import pytest

from jaxnn import rules
from jaxnn.errors import JaxnnError
from tests.rules.cases_recurrent import arguments
from tests.rules.common import assert_close, normal, run

# name -> maker, gates, arrays of state, whether there is a bias more
KINDS = {
    "rnn": (rules.rnn, 1, 1, False),
    "lstm": (rules.lstm, 4, 2, False),
    "gru": (rules.gru, 3, 1, True),
}


def made(name, shape, mask=None, **how):
    """A rule and its arguments."""
    make, gates, states, more = KINDS[name]
    args = arguments(gates, states, shape, mask, more)
    return make(**how), list(args)


@pytest.mark.parametrize("name", KINDS)
def test_padding_is_not_read_whatever_it_holds(name):
    mask = np.array([[1, 1, 0], [0, 0, 0]], bool)
    rule, args = made(name, (2, 3, 2, 2), mask)
    dy = normal(2, 3, 2)
    want = run(rule, args, dy)
    args[0] = np.where(mask[..., None], args[0], np.nan)
    got = run(rule, args, np.where(mask[..., None], dy, np.nan))
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert_close(g, w, 0)


@pytest.mark.parametrize("name", KINDS)
def test_nan_of_a_step_that_counts_reaches_its_row_alone(name):
    rule, args = made(name, (2, 3, 2, 2))
    args[0][1, 1, 0] = np.nan
    y, (dx, dw, *_) = jax.device_get(run(rule, args, np.ones((2, 3, 2))))
    want = np.zeros((2, 3, 2), bool)
    want[1, 1:] = True
    np.testing.assert_array_equal(np.isnan(y), want)
    assert np.isnan(dx[1]).all()
    assert np.isfinite(dx[0]).all()
    assert np.isnan(dw).all()


@pytest.mark.parametrize("scale", [1e3, 1e30])
@pytest.mark.parametrize("name", KINDS)
def test_no_gate_overflows(name, scale):
    rule, args = made(name, (2, 3, 2, 2))
    args = [a.astype("float32") for a in args]
    args[0] *= np.float32(scale)
    y, cotangents = run(rule, args, np.ones((2, 3, 2), "float32"))
    assert all(np.isfinite(a).all() for a in (y, *cotangents))


def products(jaxpr):
    """Matrix products in a jaxpr, and in the scans it contains."""
    here, inside = 0, 0
    for eqn in jaxpr.eqns:
        here += eqn.primitive.name == "dot_general"
        subs = [p for p in eqn.params.values() if hasattr(p, "jaxpr")]
        for sub in subs:
            counts = products(sub.jaxpr)
            if eqn.primitive.name == "scan":
                inside += sum(counts)
            else:
                here, inside = here + counts[0], inside + counts[1]
    return here, inside


@pytest.mark.parametrize("name", KINDS)
def test_weight_gradients_are_products_over_all_steps(name):
    rule, args = made(name, (2, 3, 2, 2))
    cache = jax.eval_shape(rule.fwd, *args)[1]
    forward = jax.make_jaxpr(rule.fwd)(*args)
    back = jax.make_jaxpr(rule.bwd)(cache, np.ones((2, 3, 2)))
    apart = name == "gru"  # needs x w and h u each for itself
    assert products(forward.jaxpr) == (0, 2 if apart else 1)
    # dx, dw and du of all steps; dh of one
    assert products(back.jaxpr) == (3 if apart else 2, 1)


def test_second_derivatives_pass_through_the_loops():
    rule, args = made("lstm", (2, 3, 2, 2))
    x, *rest = args
    dy = normal(2, 3, 2)

    def by_hand(x):
        return run(rule, (x, *rest), dy)[1][0]

    def by_grad(x):
        return jax.grad(lambda x: (rule.fwd(x, *rest)[0] * dy).sum())(x)

    @jax.jit
    def both(x, tangent):
        return [jax.jvp(f, (x,), (tangent,))[1] for f in (by_hand, by_grad)]

    assert_close(*both(x, normal(2, 3, 2, seed=9)), 1e-11)


def test_unknown_activation_lists_the_known_ones():
    with pytest.raises(JaxnnError, match=r"rnn 'sin'.*Valid names: relu, tanh"):
        rules.rnn("sin")


def in_torch(torch, name, args, every_step):
    """torch's y and its gradients of (y * dy).sum(), in the order of our arguments."""
    x, w, u, b, *rest = [torch.tensor(np.array(a)) for a in args]
    kinds = {"rnn": torch.nn.RNN, "lstm": torch.nn.LSTM, "gru": torch.nn.GRU}
    net = kinds[name](x.shape[2], u.shape[0], batch_first=True, dtype=torch.float64)
    hidden = torch.zeros_like(b)
    if name == "gru":
        hidden[-u.shape[0] :] = rest.pop(0)
    with torch.no_grad():
        for p, value in zip(net.parameters(), (w.T, u.T, b, hidden), strict=True):
            p.copy_(value)
    start = [r[None].requires_grad_() for r in rest]
    x.requires_grad_()
    ys, _ = net(x, tuple(start) if name == "lstm" else start[0])
    y = ys if every_step else ys[:, -1]
    y.backward(torch.tensor(normal(*y.shape, seed=6)))
    dw, du, db, dhidden = (p.grad for p in net.parameters())
    dc = [dhidden[-u.shape[0] :]] if name == "gru" else []
    grads = [x.grad, dw.T, du.T, db, *dc, *(s.grad[0] for s in start)]
    return y.detach().numpy(), [g.numpy() for g in grads]


@pytest.mark.parametrize("every_step", [True, False])
@pytest.mark.parametrize("shape", [(3, 5, 4, 6), (1, 1, 1, 1)], ids=str)
@pytest.mark.parametrize("name", KINDS)
def test_equals_torch(name, shape, every_step):
    torch = pytest.importorskip("torch")
    rule, args = made(name, shape, every_step=every_step)
    want_y, want = in_torch(torch, name, args, every_step)
    y, got = run(rule, args, normal(*want_y.shape, seed=6))
    assert_close(y, want_y)
    for g, w in zip(got, want, strict=True):
        assert_close(g, w)
