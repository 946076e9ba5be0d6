"""Estimators of scikit-learn: `JaxnnClassifier` and `JaxnnRegressor`.

    from jaxnn.sklearn import JaxnnClassifier

    model = make_pipeline(StandardScaler(), JaxnnClassifier((64,), max_iter=50))
    model.fit(x, y).score(x_test, y_test)

Their settings have the names of scikit-learn's `MLPClassifier`, as far as it has them.
`GridSearchCV`, `Pipeline`, `clone`, pickle and joblib take them like any other. Needs
the extra: `pip install 'jaxnn[sklearn]'`. Of `check_estimator` one check asks for more
than float32 has: a weight is so many rows, to seven digits. With JAX_ENABLE_X64=1 it
passes whole.
"""

from typing import Any, Self

import jax
import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import (
    _check_sample_weight,
    check_is_fitted,
    validate_data,
)

from jaxnn import losses, regularize, train
from jaxnn.arrays import is_float, is_whole
from jaxnn.combine import mlp
from jaxnn.errors import JaxnnError
from jaxnn.layers import Layer
from jaxnn.optimizers import optimizer_by_name


class Network(BaseEstimator):
    """A network that `jaxnn.fit` trains, with the manners of scikit-learn.

    Args:
      hidden_layer_sizes: units of each hidden layer; () is a linear model.
      activation: of the hidden units, by name (`jaxnn.mlp`).
      net: a whole network instead of those two; it takes rows (features,), so one for
        images begins with `reshape(28, 28, 1)`, and has an output a class or target.
      solver: an optimizer by name (`jaxnn.optimizers`), or one of optax.
      learning_rate_init: learning rate of a named solver; None is its usual one.
      alpha: strength of the l2 penalty on weights, alpha / 2 |w|^2.
      batch_size: samples a step; "auto" is 200, or all where there are fewer.
      max_iter: epochs.
      early_stopping: whether to keep `validation_fraction` of the rows apart, stop
        after `n_iter_no_change` epochs without gain there and return the best.
      validation_fraction: see `early_stopping`.
      n_iter_no_change: see `early_stopping`.
      random_state: a seed, a generator, or None.

    Attributes:
      net_: the network.
      history_: what `jaxnn.fit` returned: curves, parameters, findings.
      n_iter_: epochs that were trained.
      loss_curve_: mean loss of each epoch.
    """

    _loss: Any

    def __init__(
        self,
        hidden_layer_sizes: Any = (100,),
        activation: str = "relu",
        *,
        net: Layer | None = None,
        solver: Any = "adam",
        learning_rate_init: float | None = None,
        alpha: float = 0.0,
        batch_size: int | str = "auto",
        max_iter: int = 200,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        random_state: Any = None,
    ):
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.net = net
        self.solver = solver
        self.learning_rate_init = learning_rate_init
        self.alpha = alpha
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.random_state = random_state

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train anew on X (n, features) and y, each row as often as its weight says.

        Raises:
          ValueError: data or settings that do not fit.
        """
        X, y = self._read(X, y, reset=True)
        return self._train(X, self._targets(y), sample_weight, self.max_iter)

    def _read_part(self, X, y):
        """Rows of `partial_fit`, and the history that it goes on from, if any."""
        if self.early_stopping:
            raise JaxnnError(
                f"{type(self).__name__}.partial_fit: got early_stopping=True, expected "
                "False: it would keep other rows apart in every call"
            )
        start = getattr(self, "history_", None)
        return *self._read(X, y, reset=start is None), start

    def _read(self, X, y, reset):
        many = isinstance(self, RegressorMixin)
        made, y = validate_data(
            self, X, y, reset=reset, dtype=np.float32, multi_output=many, y_numeric=many
        )
        return _unit(made, X), y

    def _train(self, X, y, sample_weight, epochs, start=None):
        outputs = len(self.classes_) if hasattr(self, "classes_") else y.shape[1]
        sizes = np.atleast_1d(self.hidden_layer_sizes).tolist()
        if start is None:
            widths = [X.shape[1], *sizes, outputs]
            self.net_ = mlp(widths, self.activation) if self.net is None else self.net
        weights = validation = None
        if sample_weight is not None:
            weights = _check_sample_weight(sample_weight, X, dtype=np.float32)
            rows = np.flatnonzero(weights)  # what has no weight is not there
            if not len(rows) or weights.min() < 0:
                raise JaxnnError(
                    f"{type(self).__name__}: got sample weights from {weights.min():g} "
                    f"to {weights.max():g}, expected some above 0 and none below"
                )
            X, y, weights = X[rows], y[rows], weights[rows] / weights[rows].mean()
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        if self.early_stopping:
            parts = [X, y] if weights is None else [X, y, weights]
            split = train_test_split(
                *parts, test_size=self.validation_fraction, random_state=seed
            )
            X, y, weights = [*split[0::2], None][:3]
            validation = (split[1], split[3])
        solver = self.solver
        if isinstance(solver, str):
            solver = optimizer_by_name(solver, self.learning_rate_init)
        size: Any = 200 if self.batch_size == "auto" else self.batch_size
        size = min(size, len(X)) if is_whole(size) else size
        self.history_ = train.fit(
            self.net_, (X, y), validation=validation, loss=self._loss, weights=weights,
            optimizer=solver, epochs=epochs, batch=size, seeds=seed,
            penalty=regularize.l2(self.alpha) if self.alpha else None, start=start,
            patience=None if validation is None else self.n_iter_no_change,
        )  # fmt: skip
        rows = self.history_.epochs
        self.n_iter_ = rows[-1]["epoch"]
        before = [] if start is None else self.loss_curve_
        self.loss_curve_ = before + [row["loss"] for row in rows]
        return self

    def _outputs(self, X):
        check_is_fitted(self)
        X = _unit(validate_data(self, X, reset=False, dtype=np.float32), X)
        history = self.history_
        with jax.enable_x64(True):  # the order of the rows decides no digit
            params, state, X = jax.tree.map(
                lambda a: np.asarray(a, np.float64 if is_float(a) else None),
                (history.params, history.state, X),
            )
            return train.predict(self.net_, params, state, X)


def _unit(X, given):
    """Pixels in [0, 1] where bytes were given, as `jaxnn.fit` takes them."""
    return X / np.float32(255) if np.asarray(given).dtype == np.uint8 else X


class JaxnnClassifier(ClassifierMixin, Network):
    """A classifier by cross-entropy; settings and attributes as of `Network`.

    Attributes:
      classes_: the labels, of any type, sorted.
    """

    _loss = losses.softmax_cross_entropy

    def _targets(self, y):
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise JaxnnError(
                f"JaxnnClassifier: got one class, {self.classes_[0]!r}, expected two "
                "or more"
            )
        return labels.astype(np.int32)

    def partial_fit(
        self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None
    ) -> Self:
        """Train one more epoch; the first call names all `classes` there will be."""
        X, y, start = self._read_part(X, y)
        if start is None:
            self._targets(np.asarray(y if classes is None else classes))
        elif classes is not None and set(classes) != set(self.classes_):
            raise JaxnnError(
                f"JaxnnClassifier.partial_fit: got classes {classes}, expected "
                f"those of the first call, {self.classes_[:20]}"
            )
        unknown = sorted(set(np.unique(y)) - set(self.classes_))
        if unknown:
            raise JaxnnError(
                f"JaxnnClassifier.partial_fit: got labels {unknown[:5]}, expected some "
                f"of {self.classes_[:20]}"
            )
        y = np.searchsorted(self.classes_, y).astype(np.int32)
        return self._train(X, y, sample_weight, 1, start)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probability of each class, (n, classes), in their order."""
        logits = self._outputs(X).astype(np.float64)
        odds = np.exp(logits - logits.max(1, keepdims=True))
        return (odds / odds.sum(1, keepdims=True)).astype(np.float32)

    def predict(self, X: Any) -> np.ndarray:
        """Return the likeliest label of each row, (n,)."""
        best = self._outputs(X).argmax(1)
        return self.classes_[best]


class JaxnnRegressor(RegressorMixin, Network):
    """A regressor by squared error; settings and attributes as of `Network`."""

    _loss = losses.quadratic

    def _targets(self, y):
        self._many = y.ndim > 1
        return y.reshape(len(y), -1).astype(np.float32)

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train one more epoch."""
        X, y, start = self._read_part(X, y)
        return self._train(X, self._targets(y), sample_weight, 1, start)

    def predict(self, X: Any) -> np.ndarray:
        """Return the value of each row, (n,), or (n, targets) as y had them."""
        values = self._outputs(X)
        return values if self._many else values[:, 0]

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
