import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn import graph
from jaxnn.errors import JaxnnError
from jaxnn.graph import evaluate
from tests.rules.common import normal


def close(got, want):
    """Within 1e-12 of the largest entry, or of 1: what cancels leaves rounding."""
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape
    scale = max(1, np.abs(want[np.isfinite(want)]).max(initial=0))
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-12 * scale)


X, W, B = normal(4, 3), normal(3, 2), normal(2)
JX = jnp.asarray(X)

# name -> (the same function for nodes and for arrays, its arguments)
SHARED = {
    "x * x": (lambda x: (x * x).sum(), (X,)),
    "x + x + x": (lambda x: (x + x + x).sum(), (X,)),
    "diamond": (lambda x: ((x * 2) * (x + 1)).sum(), (X,)),
    "diamond in a diamond": (lambda x: (lambda a, b: (a * b - a / b) @ (a * a).T)(
        x * x + 2, x * 3 + 9).sum(), (X,)),
    "shared weights": (lambda x, w: (((x @ w) @ w) * (x @ w)).mean(), (X, W @ W.T)),
    "x ** x": (lambda x: (abs(x) ** abs(x)).sum(), (X,)),
}  # fmt: skip

OPERATORS = {
    "neuron": (lambda x, w, b: (x @ w + b).sum(), (X, W, B)),
    "minus": (lambda x, b: ((x - b) - (3 - x) * (-b)).sum(), (X, X[0])),
    "over": (lambda x, b: ((x / b) + (1 / x) - x / 2).sum(), (X, X[:1] + 5)),
    "power": (lambda x: (x**2 + 2**x + x**3.0).sum(), (X,)),
    "abs": (lambda x: abs(x).sum(), (X,)),
    "row": (lambda x: (x[1] * x[-1]).sum(), (X,)),
    "column": (lambda x: (x[:, 0] * x[..., 2]).sum(), (X,)),
    "every other": (lambda x: (x[::2] * x[1::2, ::-1]).sum(), (X,)),
    "new axis": (lambda x: (x[:, None, :] * x[None]).sum(), (X,)),
    "transposed": (lambda x: (x.T @ x).sum(), (X,)),
    "reshaped": (lambda x: (x.reshape(2, 6) @ x.reshape((6, 2))).sum(), (X,)),
    "sums": (lambda x: (x.sum(0) * x.sum(axis=-1, keepdims=True)).sum(), (X,)),
    "means": (lambda x: (x.mean(0) * x.mean((0, 1))).mean(), (X,)),
    "largest": (lambda x: (x.max(0) * x.max(axis=1, keepdims=True)).max(), (X,)),
    "vector @ vector": (lambda a, b: a @ b, (B, B + 1)),
    "matrix @ vector": (lambda x, w: (x @ w).sum(), (X, X[0])),
    "vector @ matrix": (lambda x, w: (x @ w).sum(), (X[0], W)),
    "stack @ matrix": (lambda x, w: (x @ w).sum(), (normal(2, 4, 3), W)),
    "stack @ stack": (lambda a, b: ((a @ b) ** 2).sum(), (normal(2, 2, 2),) * 2),
    "stack @ vector": (lambda a, b: ((a @ b) ** 2).sum(), (normal(2, 4, 3), X[0])),
    "vector @ stack": (lambda a, b: ((a @ b) ** 2).sum(), (X[0], normal(2, 3, 4))),
    "NumPy on the left": (lambda x: ((X + X * x) / (X - x + 9)).sum(), (X,)),
    "NumPy to the power": (lambda x: (np.exp(X) ** x).sum(), (X,)),
    "NumPy @": (lambda x: (X.T @ x + np.float64(2) * x[:3] / np.int32(3)).sum(), (X,)),
    "JAX on the left": (lambda x: (JX.T @ (JX * x - JX / (JX - x + 9))).sum(), (X,)),
}  # fmt: skip


def both(function, arrays):
    """(value, gradients) by the graph, and by `jax.grad`."""
    feeds = [graph.feed(f"x{i}") for i in range(len(arrays))]
    root = function(*feeds)
    with jax.numpy_rank_promotion("allow"):  # the reference broadcasts as NumPy does
        want = jax.value_and_grad(function, tuple(range(len(arrays))))(
            *map(jnp.asarray, arrays)
        )
    return graph.bprop(root, tuple(feeds), dict(zip(feeds, arrays, strict=True))), want


def check(function, arrays):
    got, want = both(function, arrays)
    jax.tree.map(close, got, want)


@pytest.mark.parametrize("name", [*SHARED, *OPERATORS])
def test_gradients_equal_jax_grad(name):
    check(*(SHARED | OPERATORS)[name])


MUTANTS = {  # what is wrong, and in which line of the backward pass
    "overwritten": ("grads[source] + d if source in grads else d", "d"),
    "first one only": ("grads[source] + d if", "grads[source] if"),
    "one too many": ("grads[source] + d if", "grads[source] + d + d if"),
    "forward order": ("in reversed(steps)", "in steps"),
    "wrong input": ("node.rule.bwd(caches.pop(node), dy)",
                    "node.rule.bwd(caches.pop(node), dy)[::-1]"),
}  # fmt: skip


@pytest.mark.parametrize("mutant", MUTANTS)
def test_checker_fails_a_mutant_of_the_backward_pass(mutant, monkeypatch):
    source = inspect.getsource(evaluate._backward)
    right, wrong = MUTANTS[mutant]
    assert source.count(right) == 1
    changed = {}
    exec(source.replace(right, wrong), vars(evaluate), changed)
    monkeypatch.setattr(evaluate, "_backward", changed["_backward"])
    with pytest.raises((AssertionError, JaxnnError)):
        check(*SHARED["diamond in a diamond"])
