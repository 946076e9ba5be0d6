"""Loss, accuracy and outputs over a whole data set, in batches of one shape."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn import programs
from jaxnn.arrays import as_rows
from jaxnn.distributed.mesh import DataParallel, host_array
from jaxnn.errors import JaxnnError, known_words
from jaxnn.layers import Layer
from jaxnn.losses import Loss, is_correct, softmax_cross_entropy, yes_above
from jaxnn.train.inputs import (
    as_loss,
    as_targets,
    check_arguments,
    check_params,
    check_pixels,
    check_targets,
)
from jaxnn.train.state import float_type, to_unit
from jaxnn.tree import map_batches


class Evaluation(NamedTuple):
    """What `evaluate` found; with S seeds every field has a leading axis S.

    `loss` is the mean over samples, `accuracy` the share of right labels (NaN where
    the targets are not labels; a single output says yes above 0, that of a sigmoid
    above 0.5; an output that is NaN is no answer), `outputs` the network's outputs
    (N, classes). Of values, in a regression: `mae`, the mean absolute error, and `r2`,
    the share of their variance that is explained, mean over the outputs; else None.
    """

    loss: Any
    accuracy: Any
    outputs: np.ndarray
    mae: Any = None
    r2: Any = None

    def measures(self) -> dict[str, Any]:
        """What it says beside the loss: accuracy, or MAE and R2."""
        if self.mae is None:
            return {"accuracy": self.accuracy}
        return {"mae": self.mae, "r2": self.r2}

    def __repr__(self) -> str:
        told = {"loss": self.loss, **self.measures()}
        words = [f"{name} {np.round(a, 4).tolist()}" for name, a in told.items()]
        return f"<Evaluation: {', '.join(words)}, outputs {self.outputs.shape}>"


@known_words
def predict(
    net: Layer, params: Any, state: Any, x: Any, *, batch: int = 1000,
    seeds: bool = False, parallel: DataParallel | None = None,
) -> np.ndarray:  # fmt: skip
    """Outputs of `net` in evaluation mode, (N, classes), or (S, N, classes) for seeds.

    Args:
      net: the network.
      params: its parameters; with `seeds` stacked along a leading axis.
      state: its state, likewise.
      x: inputs (N, ...): uint8 pixels, which become [0, 1], or floats and other whole
        numbers, taken as they are in the parameters' type. Also lists and what pandas
        or PyTorch hold.
      batch: inputs a call; one program serves all of them, the last one padded.
      seeds: whether params and state have a leading axis of seeds.
      parallel: the mesh on which params and state lie, and each batch is divided.
    """
    x = as_rows(x, "predict", "x")
    check_arguments("predict", batch=batch)
    check_params("predict", net, params, state, x, seeds)
    check_pixels("predict", net, x, "x")
    x, axis, batch = host_array(x), int(seeds), min(batch, len(x))
    if parallel is not None:
        batch = -(-batch // parallel.mesh.size) * parallel.mesh.size

    def outputs(rows):
        rows = np.asarray(rows)
        # `jnp.asarray` would compile a program for each shape
        given = jax.device_put(x[rows]) if parallel is None else parallel.rows(x, rows)
        out = _forward(net, params, state, given, seeds)
        out = np.asarray(out) if parallel is None else parallel.gathered(out)
        return out.swapaxes(0, axis)

    found = map_batches(outputs, np.arange(len(x)), batch=batch)
    return np.ascontiguousarray(found.swapaxes(0, axis))


@known_words
def evaluate(
    net: Layer, params: Any, state: Any, x: Any, y: Any, *,
    loss: Loss | str = softmax_cross_entropy, batch: int = 1000, seeds: bool = False,
    parallel: DataParallel | None = None,
) -> Evaluation:  # fmt: skip
    """Mean loss and accuracy of `net` on x (N, ...), y (N,) labels or (N, classes).

    Arguments as in `predict`.

    Raises:
      JaxnnError: x and y differ in length, or do not fit the network or loss.
    """
    loss = as_loss("evaluate", loss)
    x, y = as_rows(x, "evaluate", "x"), as_targets(y, "evaluate", "y")
    if len(x) != len(y):
        raise JaxnnError(f"evaluate: got {len(x)} inputs and {len(y)} targets")
    outputs = predict(
        net, params, state, x, batch=batch, seeds=seeds, parallel=parallel
    )
    target = np.asarray(y)
    check_targets("evaluate: data", target, outputs.shape[1 + seeds :], loss)
    losses = _values(loss, outputs, jax.device_put(target), seeds)
    samples = tuple(range(int(seeds), outputs.ndim - 1))
    labels = target.shape == outputs.shape[int(seeds) : -1]
    mae = r2 = None
    if labels and np.issubdtype(target.dtype, np.integer):
        right = is_correct(outputs, target, yes_above(net)) & ~np.isnan(outputs).any(-1)
        accuracy = right.mean(samples)
    else:
        accuracy = np.full(outputs.shape[: int(seeds)], np.nan)
        if getattr(loss, "targets", None) == "values":
            mae, r2 = _of_values(outputs, target.reshape(outputs.shape[int(seeds) :]))
    return Evaluation(np.asarray(losses, np.float64), accuracy, outputs, mae, r2)


def _of_values(outputs, target):
    """Mean absolute error and R2 of outputs (..., N, K) for values (N, K)."""
    outputs, target = outputs.astype(np.float64), target.astype(np.float64)
    rest = ((outputs - target) ** 2).sum(-2)
    with np.errstate(invalid="ignore", divide="ignore"):
        r2 = 1 - rest / ((target - target.mean(0)) ** 2).sum(0)
    return np.abs(outputs - target).mean((-2, -1)), r2.mean(-1)


@partial(programs.jit, static_argnames=("net", "seeds"))
def _forward(net, params, state, x, seeds):
    def one(p, s):
        return net.forward(p, s, to_unit(x, float_type(p)), train=False)[0]

    out = (jax.vmap(one) if seeds else one)(params, state)
    return out.astype(jnp.promote_types(out.dtype, jnp.float32))


@partial(programs.jit, static_argnames=("loss", "seeds"))
def _values(loss, outputs, target, seeds):
    def one(out):
        return loss(out, target)[0]

    return (jax.vmap(one) if seeds else one)(outputs)
