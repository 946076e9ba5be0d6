"""Training from start to finish: epochs, validation, early stopping, interruption."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jax.sharding import AbstractMesh, Mesh

from jaxnn.errors import known_words
from jaxnn.layers import Layer
from jaxnn.losses import Loss, softmax_cross_entropy
from jaxnn.optimizers import optimizer_by_name
from jaxnn.train.callbacks import check_callbacks
from jaxnn.train.inputs import (
    MANY,
    MOST_BAD,
    as_loss,
    check_arguments,
    check_effects,
    check_step_functions,
    checked_data,
    sample_weights,
    seed_list,
)
from jaxnn.train.loss_scale import is_half
from jaxnn.train.policy import slowable
from jaxnn.train.run import History, Run
from jaxnn.train.snapshots import Snapshots
from jaxnn.train.state import Weighted
from jaxnn.train.step import Defense, make_step


@known_words
def fit(
    net: Layer,
    data: Any,
    targets: Any = None,
    *,
    validation: tuple[Any, Any] | None = None,
    loss: Loss | str = softmax_cross_entropy,
    optimizer: Any = "adam",
    epochs: int = 10,
    batch: int = 128,
    seeds: int | Sequence[int] = 0,
    shuffle: str = "shared",
    penalty: Callable | None = None,
    project: Callable | None = None,
    augment: Callable | None = None,
    mixup: Callable | None = None,
    weight_noise: Callable | None = None,
    clip_norm: float | None = None,
    clip_value: float | None = None,
    ema: float | None = None,
    defense: Defense | None = None,
    weights: Any = None,
    class_weights: Any = None,
    patience: int | None = None,
    keep: str | None = None,
    guard: str = "skip",
    max_bad_steps: int = MOST_BAD,
    steps_per_call: int | None = None,
    dtype: Any = None,
    precision: str = "float32",
    progress: bool = False,
    on_epoch: Callable[[dict], None] | None = None,
    mesh: Mesh | AbstractMesh | None = None,
    snapshots: Snapshots | None = None,
    start: Any = None,
    callbacks: Sequence[Any] = (),
    metrics: Mapping[str, Callable] | None = None,
    train_sample: int = 0,
) -> History:
    """Train `net` on `data`, one compiled program scanning over the batches.

    Args:
      net: the network.
      data: (x, y): x (N, ...) uint8 pixels, which become [0, 1], or floats and other
        whole numbers, taken as they are (pixels of 0 to 255 among them are refused,
        see `jaxnn.arrays.check_unit`); y (N,) labels of any whole type or bools, or
        (N, classes). Also lists and what pandas or PyTorch hold.
      targets: y, where x alone is given as `data`: `fit(net, x, y)`.
      validation: (x, y) measured after every epoch: it decides early stopping and
        which parameters are kept (by accuracy, by loss where y are not labels).
      loss: see `jaxnn.losses`; ours also by name, such as "mse".
      optimizer: an optax transformation, or a name such as "sgd" with its usual rate
        (`jaxnn.optimizers.OPTIMIZERS`); None is Adam with 1e-3. Those of
        `jaxnn.optimizers` are the same object for the same arguments, so runs share
        their programs.
      epochs: how often the data is gone through.
      batch: samples a step; rows beyond the last whole batch wait for another epoch.
      seeds: one seed, or a list trained side by side by `vmap`.
      shuffle: "shared": every seed sees the same batches (fast, and a seed's result
        does not depend on its company); "per-seed": each seed its own order, slower.
      penalty, project, augment, mixup, weight_noise, clip_norm, clip_value, ema,
        defense: of each step, see `jaxnn.train.Step`. With `ema` the average is
        validated and returned instead of the last parameters.
      weights: a weight >= 0 for each training sample, (N,): its loss is multiplied by
        it, the mean still divides by the batch (see `jaxnn.losses`).
      class_weights: a weight for each class, (classes,), or "balanced": N / (classes
        n_c). Validation is measured without weights.
      patience: stop after so many epochs without a better validation, of which there
        has to be one; None never.
      keep: "best": the history's params are those best on validation, "last": those
        of the last epoch; None: best where there is a validation set.
      guard: what becomes of a step whose loss, gradient or update is not finite: "skip"
        it, "raise", "rollback" (half the learning rate), "stop" or "off", see
        `jaxnn.guard.POLICIES`. The first one is located: `History.findings`.
      max_bad_steps: so many skipped steps in a row raise `TrainingError`.
      steps_per_call: steps in one call of the program, None for a whole epoch; smaller
        makes Ctrl-C and the guard answer sooner on slow networks.
      dtype: of parameters and computation; None is JAX's default float. float16
        computes in it with a loss scale that adapts (`jaxnn.train.loss_scale`) and
        keeps the parameters in JAX's default float.
      precision: "bfloat16" rounds the operands of products and convolutions to it, in
        loss, gradients and a defense's attacks; sums, parameters, optimizer and
        validation stay float32. Faster where processor or GPU has the instructions; a
        warning says where they are missing.
      progress: show a progress bar on stderr.
      on_epoch: called with each finished row of the history.
      mesh: devices that divide each batch; parameters are on all of them. The result
        is that of one device but for rounding. With several processes each must call
        `fit` with the same arguments, and returns the same history.
      snapshots: where to keep the run's whole state after each epoch, and whether to
        continue from there, see `jaxnn.train.Snapshots`.
      start: what to go on from: an earlier `History` (or `TrainState`) with the
        optimizer's moments and counts, so that 2 epochs and 3 more are 5, bit for bit;
        or params, or (params, state), with which a new training begins. `epochs` are
        further ones, and the new history has their rows only.
      callbacks: objects that are called at the start, after every epoch and at the
        end, see params, and can stop: see `jaxnn.train.callbacks`.
      metrics: name -> `(outputs, y) -> number`, NumPy arrays of all validation rows: a
        curve `validation_NAME` of the history.
      train_sample: so many training samples, the same after every epoch, are measured
        as validation is: `training_accuracy` beside `validation_accuracy`.

    A setting without effect is refused, if it is not the default.

    Ctrl-C ends training after the running call; the history so far is returned with
    `stopped = "interrupted"`. A second Ctrl-C interrupts at once.

    Raises:
      JaxnnError: data that does not fit (lengths, batch > N, NaN), bad settings.
      TrainingError: as `guard` says, with what was located in its words.
    """
    of_step = {
        "penalty": penalty, "project": project, "augment": augment, "mixup": mixup,
        "weight_noise": weight_noise, "clip_norm": clip_norm, "clip_value": clip_value,
        "ema": ema, "defense": defense, "precision": precision,
    }  # fmt: skip
    if optimizer is None or isinstance(optimizer, str):
        optimizer = optimizer_by_name(optimizer or "adam")
    data = data if targets is None else (data, targets)
    loss, found = as_loss("fit", loss), seed_list(seeds)
    seeds = found if isinstance(seeds, MANY) else found[0]
    x, y, validation = checked_data("fit", net, loss, data, validation, batch)
    check_arguments(
        "fit", epochs=epochs, max_bad_steps=max_bad_steps, patience=patience,
        steps_per_call=steps_per_call, snapshots=snapshots, mesh=mesh, dtype=dtype,
        on_epoch=on_epoch, shuffle=shuffle, keep=keep, optimizer=optimizer,
        train_sample=train_sample, **of_step,
    )  # fmt: skip
    check_effects(
        validation, patience, keep, metrics, train_sample, guard, max_bad_steps
    )
    check_callbacks(callbacks)
    half = is_half(dtype)
    step = make_step(
        net, loss, slowable(optimizer) if guard == "rollback" else optimizer,
        **of_step, half=half, guard=guard if guard in ("skip", "off") else "halt",
        watch_update=False,
    )  # fmt: skip
    each = sample_weights(y, weights, class_weights)
    if each is not None:
        y = Weighted(y, each)
    dtype = None if half else dtype
    check_step_functions(step, x, y, batch, dtype)
    if precision != "float32":
        from jaxnn.environment import warn_if_slow  # here alone it is needed

        warn_if_slow(precision)
    run = Run(
        step, (x, y), validation, seeds, batch, shuffle=shuffle, guard=guard,
        max_bad_steps=max_bad_steps, mesh=mesh, metrics=metrics,
        train_sample=train_sample, callbacks=callbacks,
    )  # fmt: skip
    run.start(dtype, start)
    return run.train(
        epochs, patience=patience, choose=keep != "last" and validation is not None,
        steps_per_call=steps_per_call, progress=progress, on_epoch=on_epoch,
        snapshots=snapshots,
    )  # fmt: skip
