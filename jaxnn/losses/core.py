"""What every loss shares: targets as rows, weights, the mean, equality."""

import pkgutil
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxnn.arrays import as_array, first_true, is_traced
from jaxnn.combine import split_last
from jaxnn.errors import JaxnnError
from jaxnn.layers import Layer, sigmoid
from jaxnn.layers.core import settled

Reduction = Literal["mean", "none"]
Targets = Literal["classes", "answers", "signs", "values"]

Loss = Callable[..., tuple[Array, Array]]
"""Any function `(pred, target) -> (value, dpred)`."""


class RegisteredLoss:
    """`(pred, target, *, weights, class_weights, reduction, ...) -> (value, dpred)`.

    Losses of one function and equal settings, of equal types, are equal, so that they
    share compiled programs. A setting that cannot be hashed (an array, what a sweep
    traces) makes a loss that equals itself only.

    Attributes:
      function: `(pred, t, **settings) -> (values, dpred)`, see `loss`.
      targets: what rows of targets are, see `loss`.
      outputs: what a network may end in for it, see `loss`.
      probabilities: how its outputs become probabilities, see `loss`.
      settings: those that differ from the defaults.
    """

    def __init__(
        self,
        function: Callable,
        targets: Targets,
        outputs: tuple[str | None, ...],
        probabilities: Literal["softmax", "sigmoid", "scaled"],
        settings: dict[str, Any] | None = None,
    ):
        self.function, self.targets, self.outputs = function, targets, outputs
        self.probabilities, self.settings = probabilities, settings or {}
        self.__name__, self.__doc__ = function.__name__, function.__doc__
        self.__module__, self.__qualname__ = function.__module__, function.__qualname__
        code = function.__code__
        self._arguments = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        try:
            self._key = function, settled(dict(sorted(self.settings.items())))
            self._hash = hash(self._key)
        except TypeError:
            self._key, self._hash = None, id(self)

    def __eq__(self, other: object) -> bool:
        return self is other or (
            isinstance(other, RegisteredLoss)
            and self._key is not None
            and self._key == other._key
        )

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        words = [f"{name}={value!r}" for name, value in self.settings.items()]
        return f"{self.__name__}({', '.join(words)})" if words else self.__name__

    def __reduce__(self) -> tuple:
        return _again, (f"{self.__module__}:{self.__qualname__}", self.settings)

    def having(self, **settings: Any) -> "RegisteredLoss":
        """Return the loss with other settings, `class_weights` or `reduction`.

        >>> from jaxnn.losses import huber
        >>> huber.having(delta=0.5) == huber.having(delta=0.5)
        True
        """
        if settings.get("class_weights") is not None:
            each = np.asarray(settings["class_weights"], float)
            settings["class_weights"] = tuple(each.ravel().tolist())
        return self._with(self.settings | settings)

    @property
    def plain(self) -> "RegisteredLoss":
        """The loss with its default settings."""
        return self._with({})

    def _with(self, settings):
        about = self.targets, self.outputs, self.probabilities
        return RegisteredLoss(self.function, *about, settings)

    def takes(self, setting: str) -> bool:
        """Whether it has a setting of that name."""
        return setting in self._arguments

    def __call__(
        self, pred: Any, target: Any, *, weights: Any = None, **settings: Any
    ) -> tuple[Array, Array]:
        """Return the value, and the gradient for pred, see `jaxnn.losses`."""
        settings = self.settings | settings
        class_weights = settings.pop("class_weights", None)
        reduction = settings.pop("reduction", "mean")
        pred = jnp.asarray(as_array(pred, self.__name__, "predictions", floats=True))
        target = jnp.asarray(as_array(target, self.__name__, "targets"))
        # at least float32: sums of bfloat16 lose the small terms
        wide = jnp.promote_types(pred.dtype, jnp.float32)
        t, of_class = self._rows(pred, target, wide)
        if class_weights is not None and of_class is None:
            raise JaxnnError(
                f"{self.__name__}: class_weights need labels {t.shape[:-1]}, got "
                f"targets {t.shape}; give each sample its own weight by weights="
            )
        each = None
        if weights is not None or class_weights is not None:
            each = self._weights(t, of_class, weights, class_weights)
        if "one_hot" in self._arguments:
            settings["one_hot"] = target.shape != pred.shape
        values, dpred = self.function(pred.astype(wide), t, **settings)
        if each is not None:
            values, dpred = values * each, dpred * each[..., None]
        if reduction == "none":
            return values, dpred.astype(pred.dtype)
        if reduction != "mean":
            raise JaxnnError(f"reduction {reduction!r} is unknown; valid: mean, none")
        if values.size == 0:
            raise JaxnnError(f"the mean loss of no samples: predictions {pred.shape}")
        return values.mean(), (dpred / values.size).astype(pred.dtype)

    def is_one_answer(self, outputs: int) -> bool:
        """Whether labels of so many outputs are the answer to one question."""
        return outputs == 1 and self.targets in ("answers", "signs")

    def _rows(self, pred, target, dtype):
        """Targets as rows (B, N) of that type, and what class weights go by."""
        name = self.__name__
        if target.shape == pred.shape:
            t = target.astype(dtype)
            return t, t if self.targets == "classes" else None
        if pred.ndim < 1 or target.shape != pred.shape[:-1]:
            raise JaxnnError(
                f"{name}: got predictions {pred.shape} and targets {target.shape}; "
                f"expected labels {pred.shape[:-1]} or rows {pred.shape}"
            )
        if not jnp.issubdtype(target.dtype, jnp.integer):
            raise JaxnnError(
                f"{name}: labels of shape {target.shape} must be integers, got "
                f"{target.dtype}; for real values give targets of shape {pred.shape}"
            )
        if not self.is_one_answer(pred.shape[-1]):
            t = one_hot(target, pred.shape[-1], dtype)
            return t, t
        if self.targets == "signs":
            target = jnp.where(target == -1, 0, target)
        answers = one_hot(target, 2, dtype)  # (B, 2): no, yes
        return answers[..., 1:], answers

    def _weights(self, t, of_class, weights, class_weights):
        """(B,): weights times the class weights' mean over the rows."""
        each = None
        if weights is not None:
            each = jnp.asarray(weights).astype(t.dtype)
            if each.shape != t.shape[:-1]:
                raise JaxnnError(
                    f"{self.__name__}: got weights {each.shape}, expected one a "
                    f"sample, {t.shape[:-1]}"
                )
        if class_weights is None:
            return each
        by_class = jnp.asarray(class_weights).astype(t.dtype)
        if by_class.shape != of_class.shape[-1:]:
            raise JaxnnError(
                f"{self.__name__}: got class_weights {by_class.shape}, expected one a "
                f"class, {of_class.shape[-1:]}"
            )
        of_sample = of_class @ by_class
        return of_sample if each is None else each * of_sample

    def check_rows(self, where: str, rows: Any) -> None:
        """Raise unless rows of targets (N, ..., outputs), on the host, can be meant.

        Shares of classes are at least 0 and sum to 1, answers lie between 0 and 1 (for
        signs -1 is no, too); values may be anything.
        """
        if self.targets == "values":
            return
        rows = np.asarray(rows, float)
        if self.targets == "classes":
            wrong = (rows < 0).any(-1) | ~(np.abs(rows.sum(-1) - 1) < 0.01)
            expected = "shares of the classes, at least 0 and 1 together"
        else:
            inside = (rows >= 0) & (rows <= 1)
            if self.targets == "signs":
                inside |= rows == -1
            wrong, expected = ~inside.all(-1), "answers between 0 and 1"
        if wrong.any():
            raise JaxnnError(
                f"{where} has the row {rows[wrong][0].tolist()} at index "
                f"{first_true(wrong)}, but rows "
                f"of {self.__name__} are {expected}; for real values take mse, and "
                "weigh samples by weights="
            )

    def as_probabilities(self, outputs: np.ndarray) -> np.ndarray:
        """Outputs (..., N) of a network as probabilities, on the host.

        The scores of margins are not, and other outputs are only scaled to sum to 1:
        no probabilities, but in their order.
        """
        if self.probabilities == "sigmoid":
            outputs = 1 / (1 + np.exp(-outputs))
        elif self.probabilities == "softmax":
            outputs = np.exp(outputs - outputs.max(-1, keepdims=True))
        positive = np.clip(outputs, 1e-12, None)
        return positive / positive.sum(-1, keepdims=True)


LOSSES: dict[str, RegisteredLoss] = {}
"""Every loss by name, entered by `@loss`."""


def loss(
    *,
    targets: Targets = "values",
    outputs: tuple[str | None, ...] = (None,),
    probabilities: Literal["softmax", "sigmoid", "scaled"] = "scaled",
) -> Callable[[Callable], RegisteredLoss]:
    """Make a loss of `(pred, t, **settings) -> (values, dpred)`, and enter it by name.

    pred and t (..., N) come in float32 at least, t as rows; values (...) are one a
    sample, and row i of dpred (..., N) is the gradient of value i. Weights, the mean
    and the checks of shapes are added. A setting called `one_hot` tells whether labels
    were given.

    Args:
      targets: what rows are: shares of "classes"; "answers" between 0 and 1 to N
        questions; "signs", the same with -1 for no, too; or any "values".
      outputs: the activations that a network may end in for it; None are logits.
      probabilities: how outputs become probabilities.

    >>> @loss()
    ... def cubic(pred, t):
    ...     d = jnp.abs(pred - t)
    ...     return (d**3).sum(-1), 3 * d**2 * jnp.sign(pred - t)
    >>> value, dpred = LOSSES.pop("cubic")(jnp.ones((1, 2)), jnp.zeros((1, 2)))
    >>> float(value), dpred.tolist()
    (2.0, [[3.0, 3.0]])
    """

    def register(function: Callable) -> RegisteredLoss:
        found = RegisteredLoss(function, targets, outputs, probabilities)
        LOSSES[found.__name__] = found
        return found

    return register


def check_setting(
    name: str, setting: str, value: Any, fits: Callable[[Any], Any], expected: str
) -> None:
    """Raise unless a setting of the loss `name` fits; one that is traced does."""
    if not (is_traced(value) or fits(value)):
        raise JaxnnError(f"{name}: got {setting}={value:g}, expected {expected}")


def one_hot(labels: Array, classes: int, dtype: Any) -> Array:
    """Labels (...) as rows (..., N) of 0 and 1; a label outside 0..N-1 is a row of NaN.

    It would be a row of zeros, a loss of 0: NaN is honest.
    """
    inside = (labels >= 0) & (labels < classes)
    rows = jax.nn.one_hot(labels, classes, dtype=dtype)
    return jnp.where(inside[..., None], rows, jnp.nan)


def is_correct(outputs: Any, y: Any, above: float = 0.0) -> Any:
    """Return where outputs (..., N) say the labels y (...): bool, NumPy's or JAX's.

    The largest output is the answer; a single one says yes above `above`.
    """
    if outputs.shape[-1] == 1:
        return (outputs[..., 0] > above) == (y > 0)  # no is 0, for hinge also -1
    return outputs.argmax(-1) == y


def yes_above(net: Layer) -> float:
    """Return what a single output says yes above: 0, or 0.5 if it ends in sigmoid."""
    return 0.5 if split_last(net).last == sigmoid else 0.0


def _again(path, settings):
    found = pkgutil.resolve_name(path)
    return found.having(**settings) if settings else found
