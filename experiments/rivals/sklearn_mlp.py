"""Rival: scikit-learn's MLPClassifier, one `partial_fit` an epoch.

`partial_fit` makes one pass and keeps the optimizer's moments, which `fit` with
`warm_start=True, max_iter=1` throws away at every call. It draws its own start (Glorot
and Bengio 2010 with He's gain of 2, weights and biases) and its own order.
"""

import numpy as np
import sklearn
from sklearn.neural_network import MLPClassifier

from experiments.rivals import Rival, Task, unit

OPTIMIZERS = {"sgd": {"solver": "sgd", "momentum": 0.0}, "adam": {"solver": "adam"}}


def make(task: Task) -> Rival:
    model = MLPClassifier(
        hidden_layer_sizes=tuple(task.widths[1:-1]),
        batch_size=task.batch,
        learning_rate_init=task.learning_rate,
        alpha=0.0,  # its default adds an L2 penalty that the others do not have
        **task.chosen(OPTIMIZERS),
    )
    # Whole batches only, like the others: the images left out are always the last few.
    whole = len(task.x) // task.batch * task.batch
    images, labels = unit(task.x[:whole]), task.y[:whole]
    classes = np.arange(task.widths[-1])

    def epoch(index: int) -> float:
        # an int seeds every call afresh, so it must differ from epoch to epoch
        model.set_params(random_state=task.seed * 10_007 + index)
        with sklearn.config_context(assume_finite=True):
            model.partial_fit(images, labels, classes=classes)
        return float(model.loss_)

    def accuracy(x: np.ndarray, y: np.ndarray) -> float:
        return float(model.score(unit(x), y))

    return Rival("sklearn_mlp", sklearn.__version__, epoch, accuracy)
