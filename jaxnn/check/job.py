"""A network at some point, and the ways to its gradient there."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.check.alone import loss_layer, penalty_layer
from jaxnn.check.measure import DTYPES
from jaxnn.check.probe import shuffled
from jaxnn.check.second import automatic_gradient, manual_gradient
from jaxnn.check.watch import Given, Seen, Watch, one_line
from jaxnn.train.state import cast_floats, to_unit


class Job:
    """A network, its parameters and state, a batch, and a loss; as `compare_gradients`.

    Arrays are kept as they come and cast to each precision when they are used.
    """

    def __init__(self, net, loss, params, state, x, y, key, train, penalty):
        self.net, self.loss, self.penalty = net, loss, penalty
        self.key, self.train = key, train
        self.trees = jax.tree.map(np.asarray, (params, state))
        self.x, self.y = np.asarray(x), np.asarray(y)
        self.programs = jax.jit(self._both), jax.jit(self.automatic)

    def evaluation(self) -> "Job":
        """The same in evaluation mode."""
        params, state = self.trees
        return Job(
            self.net, self.loss, params, state, self.x, self.y, self.key, False,
            self.penalty,
        )  # fmt: skip

    def has_two_modes(self) -> bool:
        """Whether training and evaluation are different programs, forward or back."""
        return self._program() != self.evaluation()._program()

    def _program(self) -> str:
        def run(p, s, x, y, key):
            pred, state, cache = self.net.forward(p, s, x, key=key, train=self.train)
            try:
                back = self.net.backward(cache, jnp.ones_like(pred))
            except Exception:  # told by the comparison
                back = None
            return pred, state, back

        # addresses of functions differ from trace to trace
        return re.sub("0x[0-9a-f]+", "", str(jax.make_jaxpr(run)(*self.at("float32"))))

    def few(self, rows: int) -> "Job":
        """The same with the first rows of the batch alone."""
        p, s = self.trees
        return Job(
            self.net, self.loss, p, s, self.x[:rows], self.y[:rows],
            self.key, self.train, self.penalty,
        )  # fmt: skip

    def at(self, dtype) -> tuple:
        """params, state, inputs and targets in that precision."""
        p, s = cast_floats(self.trees, DTYPES[dtype])
        x, y = jnp.asarray(self.x), jnp.asarray(self.y)
        if x.dtype == jnp.uint8 or not _whole(x):
            x = to_unit(x, DTYPES[dtype])
        y = y.astype(jnp.int32) if _whole(y) else y.astype(DTYPES[dtype])
        return p, s, x, y, self.key

    def both_ways(self, dtype) -> tuple[Any, Any, float, str | None]:
        """Gradients by hand and by JAX, the loss, and what the first raised if so."""
        # "highest": a GPU's default float32 product keeps ten bits only
        with jax.enable_x64(True), jax.default_matmul_precision("highest"):
            try:
                ours, (value, by_jax) = jax.device_get(
                    self.programs[0](*self.at(dtype))
                )
                return ours, by_jax, float(value), None
            except Exception as raised:
                # if it is not the backward's fault, this raises it again
                value, by_jax = jax.device_get(self.programs[1](*self.at(dtype)))
                return None, by_jax, float(value), one_line(raised)

    def _both(self, *at):
        # in one program: two would round differently, and a relu near 0 may then flip
        return self.manual(*at), self.automatic(*at)

    def manual(self, p, s, x, y, key):
        """The gradient by hand, at what `at` returns."""
        pred, _, cache = self.net.forward(p, s, x, key=key, train=self.train)
        dx, grads = self.net.backward(cache, self.loss(pred, y)[1])
        if self.penalty is not None:
            grads = jax.tree.map(jnp.add, grads, self.penalty(p)[1])
        return {"params": grads} | ({} if _whole(x) else {"input": dx})

    def automatic(self, p, s, x, y, key):
        """The loss, and its gradient by `jax.grad`, at what `at` returns."""
        if _whole(x):
            value, grads = jax.value_and_grad(self._total)(p, x, s, y, key)
            return value, {"params": grads}
        by_jax = jax.value_and_grad(self._total, (0, 1))(p, x, s, y, key)
        return by_jax[0], dict(zip(("params", "input"), by_jax[1], strict=True))

    def _total(self, p, x, s, y, key):
        pred = self.net.forward(p, s, x, key=key, train=self.train)[0]
        value = self.loss(pred, y)[0]
        return value if self.penalty is None else value + self.penalty(p)[0]

    def scalar(self, dtype) -> tuple[Callable, Any]:
        """The loss as a function of params and input, and where they are.

        Complex ones will do too; whole-number inputs stay where they are.
        """
        p, s, x, y, key = self.at(dtype)
        at = {"params": p} | ({} if _whole(x) else {"input": x})

        def f(at):
            given = at["params"], at.get("input", x)
            state = s
            if any(jnp.iscomplexobj(a) for a in jax.tree.leaves(given)):
                state = jax.tree.map(lambda a: a + 0j if not _whole(a) else a, s)
            return self._total(*given, state, y, key)

        return f, at

    def gradients(self, dtype) -> tuple[Callable, Callable]:
        """`params -> dparams` by hand and by `jax.grad`, all else fixed."""
        _, s, x, y, key = self.at(dtype)
        options = {"key": key, "train": self.train, "penalty": self.penalty}
        return (
            manual_gradient(self.net, self.loss, s, x, y, **options),
            automatic_gradient(self.net, self.loss, s, x, y, **options),
        )

    def watch(self) -> tuple[list[Seen], list[Seen]]:
        """Every layer, loss and penalty at work in float64; also elsewhere."""
        with jax.enable_x64(True), jax.default_matmul_precision("highest"):
            return self._watch(*self.at("float64"))

    def _watch(self, p, s, x, y, key):
        def program(net, beside, p, s, x, y, key, draw):
            pred, _, cache = net.forward(p, s, x, key=key, train=self.train)
            dpred = _call(beside["loss"], (), {"pred": pred}, y)["pred"]
            other = jax.random.normal(jax.random.key(0), pred.shape, pred.dtype)
            net.backward(cache, jnp.where(draw, other, dpred))
            if "penalty" in beside:
                _call(beside["penalty"], p, ())

        beside = {"loss": loss_layer(self.loss)}
        if self.penalty is not None:
            beside["penalty"] = penalty_layer(self.penalty)
        given = jax.device_get((p, s, x))
        other = shuffled(Given(given[0], given[1], given[2], None, ()))
        for depth in (99, 1, 0):
            try:
                run = Watch(self.net, depth, **beside).compile(program)
                _, seen = run(p, s, x, y, key, False)
                _, elsewhere = run(*_like(other[:3], (p, s, x)), y, key, True)
                return seen, elsewhere
            except Exception:
                # a combinator that cannot be taken apart is judged as a whole
                if depth == 0:
                    raise
        raise AssertionError


def _call(layer, params, x, key=None):
    """Run a layer that makes one number, and back: its dx."""
    value, _, cache = layer.forward(params, (), x, key=key, train=True)
    return layer.backward(cache, jnp.ones_like(value))[0]


def _whole(a) -> bool:
    return jnp.issubdtype(a.dtype, jnp.integer)


def _like(tree, like):
    return jax.tree.map(lambda a, b: jnp.asarray(a, b.dtype), tree, like)
