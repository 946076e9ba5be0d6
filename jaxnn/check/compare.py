"""Hand-written against automatic gradients, leaf by leaf and layer by layer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn import programs
from jaxnn.check.adapters import loss_layer, penalty_layer
from jaxnn.check.audit import audit as audit_layers
from jaxnn.check.points import shuffled
from jaxnn.check.recorder import (
    LayerInputs,
    LayerRecord,
    LayerRecorder,
    full_precision,
    modes,
    named_leaves,
    one_line,
)
from jaxnn.check.report import Audit, GradientReport
from jaxnn.check.tolerance import (
    AS_CLOSE,
    AS_GOOD,
    DTYPES,
    LeafComparison,
    as_float64,
    compare_arrays,
    no_numbers,
)
from jaxnn.errors import known_words, lookup
from jaxnn.layers import Layer
from jaxnn.losses import Loss
from jaxnn.train.state import cast_floats, to_unit


@known_words
def compare_gradients(
    net: Layer,
    loss: Loss,
    params: Any,
    state: Any,
    x: Any,
    y: Any,
    *,
    key: Any = None,
    train: bool = True,
    penalty: Callable | None = None,
    dtypes: Sequence[str] = ("float32", "float64"),
    audit: bool = True,
) -> GradientReport:
    """Compare the hand-written gradient of a network with `jax.grad` of its forward.

    First the whole gradients, leaf by leaf. Then, as a wrong layer spoils the gradients
    of all before it, each layer on its own with the exact cotangent from above, so that
    an error is pinned to the layer and argument it is made in; also at other inputs and
    parameters, since much is hidden where gamma is 1 and beta 0.

    Args:
      net: the network.
      loss: `(pred, target) -> (value, dpred)`; its own gradient is under test too.
      params: parameters; their values are carried into each precision exactly
        (float32 into float64) or rounded (float64 into float32).
      state: the network's state.
      x: inputs (B, ...), uint8 or float in [0, 1]; the gradient for them is compared
        as the leaf "input". Other integers are left as they are, for an embedding, and
        have no gradient.
      y: targets.
      key: PRNG key, the same for both ways; needed if the network draws in training.
      train: compare the training-mode program (dropout on, batch statistics) or the
        evaluation-mode one.
      penalty: `params -> (value, dparams)`, included if given.
      dtypes: of float64, float32 and bfloat16; float64 works without any global
        setting.
      audit: whether to ask each layer though the whole agrees; if it does not, they are
        asked anyway.

    Returns:
      A `GradientReport`; `.passed`, `.findings`, `.worst`, `.table()`, `.to_json()`.
      Where the loss or a gradient is not finite nothing agrees: it is not passed, and
      `.not_finite` says what it is.

    Raises:
      JaxnnError: an unknown dtype.
    """
    case = Comparison(net, loss, params, state, x, y, key, train, penalty)
    return case.report(dtypes, audit)[0]


@dataclass(frozen=True, eq=False)
class Comparison:
    """What `compare_gradients` takes, and the ways to the gradient there.

    Arrays are kept as they come and cast to each precision when they are used.
    """

    net: Layer
    loss: Loss
    params: Any
    state: Any
    x: Any
    y: Any
    key: Any = None
    train: bool = True
    penalty: Callable | None = None
    made: dict[str, tuple] = field(default_factory=dict, init=False)  # by precision

    def report(
        self, dtypes: Sequence[str], audit: bool = True
    ) -> tuple[GradientReport, list[LayerRecord]]:
        """`compare_gradients`, and the records of the layers in float64."""
        found, truth, error, lost = {}, None, None, []
        # float64 first: it is the truth that the others are measured against
        for name in sorted(dtypes, key=lambda name: name != "float64"):
            lookup("dtype", name, DTYPES)
            by_hand, by_jax, value, error = self.both_ways(name)
            if not np.isfinite(value):
                lost.append(f"the loss is {value} ({name})")
            found[name] = _compare_trees(by_hand, by_jax, truth, name)
            truth = by_jax if name == "float64" else truth
        leaves = [leaf for name in dtypes for leaf in found[name]]
        if not audit and all(leaf.passed for leaf in leaves):
            return GradientReport(leaves=tuple(leaves), lost=tuple(lost)), []
        records, elsewhere = self.records()
        layers = audit_layers(records, dtypes, elsewhere)
        if not layers.findings:
            leaves = [_waived(leaf, layers) for leaf in leaves]
        report = GradientReport(
            **vars(layers), leaves=tuple(leaves), error=error, lost=tuple(lost)
        )
        return report, records

    def has_two_modes(self) -> bool:
        """Whether training and evaluation are different programs, forward or back."""
        p, s, x, _, key = self.at("float32")
        return len(modes(self.net, p, s, x, key)) > 1

    def few(self, rows: int) -> "Comparison":
        """The same with the first rows of the batch alone."""
        return replace(self, x=self.x[:rows], y=self.y[:rows])

    def at(self, dtype: str) -> tuple:
        """params, state, inputs, targets and key in that precision: on the host, where
        no type has to be compiled for."""
        trees = jax.tree.map(np.asarray, (self.params, self.state))
        p, s = cast_floats(trees, DTYPES[dtype])
        x, y = np.asarray(self.x), np.asarray(self.y)
        if x.dtype == np.uint8 or not _whole(x):
            x = to_unit(x, DTYPES[dtype])
        y = y.astype(np.int32) if _whole(y) else y.astype(DTYPES[dtype])
        return p, s, x, y, self.key

    def both_ways(self, dtype: str) -> tuple[Any, Any, float, str | None]:
        """Gradients by hand and by JAX, the loss, and what the first raised if so."""

        def both(*at):
            # in one program: two would round differently, and a relu near 0 may flip
            return self.manual(*at), self.automatic(*at)

        if dtype not in self.made:
            with full_precision():
                at, error = self.at(dtype), None
                try:
                    found = programs.ahead(None, both, *at)(*at)
                except Exception as raised:
                    # if it is not the backward's fault, this raises it again
                    found = None, programs.ahead(None, self.automatic, *at)(*at)
                    error = one_line(raised)
            ours, (value, by_jax) = jax.device_get(found)
            self.made[dtype] = ours, by_jax, float(value), error
        return self.made[dtype]

    def manual(self, p, s, x, y, key):
        """The gradient by hand, at what `at` returns."""
        pred, _, cache = self.net.forward(p, s, x, key=key, train=self.train)
        dx, grads = self.net.backward(cache, self.loss(pred, y)[1])
        if self.penalty is not None:
            grads = jax.tree.map(jnp.add, grads, self.penalty(p)[1])
        return {"params": grads} | ({} if _whole(x) else {"input": dx})

    def automatic(self, p, s, x, y, key):
        """The loss, and its gradient by `jax.grad`, at what `at` returns."""
        wrt = (0,) if _whole(x) else (0, 1)
        value, by_jax = jax.value_and_grad(self._total, wrt)(p, x, s, y, key)
        return value, dict(zip(("params", "input"), by_jax, strict=False))

    def _total(self, p, x, s, y, key):
        pred = self.net.forward(p, s, x, key=key, train=self.train)[0]
        value = self.loss(pred, y)[0]
        return value if self.penalty is None else value + self.penalty(p)[0]

    def scalar(self, dtype: str) -> tuple[Callable, Any]:
        """The loss as a function of params and input, and where they are.

        Complex ones will do too; whole-number inputs stay where they are.
        """
        p, s, x, y, key = self.at(dtype)
        at = {"params": p} | ({} if _whole(x) else {"input": x})

        def f(at):
            given = at["params"], at.get("input", x)
            state = s
            if any(jnp.iscomplexobj(a) for a in jax.tree.leaves(given)):
                state = jax.tree.map(lambda a: a if _whole(a) else a + 0j, s)
            return self._total(*given, state, y, key)

        return f, at

    def gradients(self, dtype: str) -> tuple[Callable, Callable]:
        """`params -> dparams` by hand and by `jax.grad`, all else fixed."""
        _, s, x, y, key = self.at(dtype)
        return (
            lambda p: self.manual(p, s, x, y, key)["params"],
            lambda p: jax.grad(self._total)(p, x, s, y, key),
        )

    def records(self) -> tuple[list[LayerRecord], list[LayerRecord]]:
        """Every layer, loss and penalty at work in float64; also elsewhere."""

        def program(net, beside, p, s, x, y, key, draw):
            pred, _, cache = net.forward(p, s, x, key=key, train=self.train)
            dpred = there_and_back(beside["loss"], (), {"pred": pred}, y)["pred"]
            other = jax.random.normal(jax.random.key(0), pred.shape, pred.dtype)
            net.backward(cache, jnp.where(draw, other, dpred))
            if "penalty" in beside:
                there_and_back(beside["penalty"], p, ())

        def there_and_back(layer, params, x, key=None):
            value, _, cache = layer.forward(params, (), x, key=key, train=True)
            return layer.backward(cache, jnp.ones_like(value))[0]

        beside = {"loss": loss_layer(self.loss)}
        if self.penalty is not None:
            beside["penalty"] = penalty_layer(self.penalty)
        with full_precision():
            p, s, x, y, key = self.at("float64")
            here = jax.device_get((p, s, x))
            other = shuffled(LayerInputs(here[0], here[1], here[2], None, ()))[:3]
            other = jax.tree.map(lambda a, b: jnp.asarray(a, b.dtype), other, here)
            run = LayerRecorder(program, self.net, **beside)
            return run(p, s, x, y, key, False), run(*other, y, key, True)


def _whole(a) -> bool:
    return jnp.issubdtype(a.dtype, jnp.integer)


def _compare_trees(by_hand, by_jax, truth, dtype) -> list[LeafComparison]:
    ours, exact = dict(named_leaves(by_hand)), dict(named_leaves(truth))
    found = []
    for path, want in named_leaves(by_jax):
        got, name = ours.get(path), path.removeprefix("params/")
        if got is None or got.shape != want.shape:
            note = "missing" if got is None else f"{got.shape}, not {want.shape}"
            found.append(no_numbers(name, dtype, note))
            continue
        c = compare_arrays(name, got, want, dtype)
        if not c.passed and path in exact:
            gaps = (as_float64(a) - exact[path] for a in (got, want))
            off, theirs = (np.abs(gap).max() for gap in gaps)
            if np.isfinite(theirs) and off <= AS_GOOD * theirs:
                c = replace(c, passed=True, note=AS_CLOSE)
        found.append(c)
    return found


def _waived(leaf: LeafComparison, layers: Audit) -> LeafComparison:
    """A leaf that differs though every layer, fed what is exact, is right.

    Then what is left is rounding, grown on its way down, or a kink. What is not finite
    is neither.
    """
    if leaf.passed or leaf.not_finite or not np.isfinite(leaf.manual):
        return leaf
    what = "a kink" if layers.waived else "rounding that grew on its way"
    note = f"{what}: every layer agrees on its own"
    return replace(leaf, passed=True, note=note)
