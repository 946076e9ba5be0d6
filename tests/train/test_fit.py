"""Training from start to finish."""

import os
import signal
import threading

import jax
import numpy as np
import optax
import pytest

from jaxnn import mlp, programs, serial
from jaxnn.errors import JaxnnError
from jaxnn.layers import dense, dropout, relu
from jaxnn.losses import mse, softmax_focal
from jaxnn.optimizers import optimizer_by_name
from jaxnn.regularize import (
    elastic_net,
    input_noise,
    max_norm,
    mixup,
    weight_noise,
)
from jaxnn.train import TrainingError, batch_order, evaluate, fit, predict
from tests.train.problem import blobs, leaves_equal, pixels

NET = mlp([6, 8, 3], normalize=True, drop_rate=0.1)
DATA, HELD = blobs(256), blobs(64, seed=1)


@pytest.mark.parametrize("widths", [[6, 3], [6, 1, 3], [6, 8, 8, 8, 8, 8, 3]])
def test_any_depth_and_width_learns(widths):
    history = fit(mlp(widths), DATA, optimizer=optax.adam(0.02), epochs=15, batch=32)
    assert history.epochs[-1]["loss"] < 0.6 * history.epochs[0]["loss"]


def test_a_history_row_tells_loss_validation_norm_and_skips():
    history = fit(NET, DATA, validation=HELD, epochs=2, batch=32)
    assert [row["epoch"] for row in history.epochs] == [1, 2]
    assert set(history.epochs[0]) == {
        "epoch", "loss", "grad_norm", "skipped", "seconds",
        "validation_loss", "validation_accuracy",
    }  # fmt: skip
    found = evaluate(NET, history.last.params, history.last.state, *HELD)
    assert history.epochs[-1]["validation_accuracy"] == pytest.approx(found.accuracy)


SETTINGS = {
    "penalty": elastic_net(0.02), "project": max_norm(1.0), "mixup": mixup(0.5, 3),
    "augment": input_noise(0.1), "weight_noise": weight_noise(0.2), "ema": 0.9,
    "clip_norm": 0.5,
}  # fmt: skip


@pytest.mark.parametrize("shuffle", ["shared", "per-seed"])
def test_each_seed_of_a_vmapped_run_is_what_it_is_alone(shuffle):
    options = SETTINGS | {"validation": HELD, "epochs": 3, "batch": 32}
    options["shuffle"] = shuffle
    together = fit(NET, DATA, seeds=[0, 3], **options)
    alone = fit(NET, DATA, seeds=3, **options)
    mine = jax.tree.map(lambda a: a[1], together.params)
    leaves_equal(mine, alone.params, rtol=1e-9, atol=1e-12)
    assert together.best_epoch[1] == alone.best_epoch


def test_the_order_is_a_permutation_and_differs_by_epoch_and_seed():
    one = batch_order(100, 8, 1)
    assert one.shape == (12, 8)
    assert len(np.unique(one)) == 96
    assert not np.array_equal(one, batch_order(100, 8, 2))
    assert not np.array_equal(one, batch_order(100, 8, 1, 5))
    assert np.array_equal(one, batch_order(100, 8, 1))


def test_steps_per_call_changes_nothing_but_the_calls():
    whole = fit(NET, DATA, epochs=2, batch=32)
    parts = fit(NET, DATA, epochs=2, batch=32, steps_per_call=3)
    leaves_equal(parts.params, whole.params, rtol=1e-10, atol=1e-13)
    assert parts.epochs[-1]["loss"] == pytest.approx(whole.epochs[-1]["loss"])


def test_the_epoch_program_compiles_once(monkeypatch):
    compiled = []
    original = jax.stages.Lowered.compile

    def counting(self, *args, **options):
        compiled.append(1)
        return original(self, *args, **options)

    monkeypatch.setattr(jax.stages.Lowered, "compile", counting)
    programs.release()
    fit(NET, DATA, validation=HELD, epochs=4, batch=32)
    assert len(compiled) == 2  # the start, and an epoch
    fit(NET, DATA, validation=HELD, epochs=4, batch=32)
    assert len(compiled) == 2


def test_the_best_parameters_by_validation_are_kept():
    # lr grows until the network is ruined: the best epoch is not the last one
    schedule = optax.exponential_decay(0.01, 8, 8.0)
    history = fit(
        NET, DATA, validation=HELD, optimizer=optax.sgd(schedule), epochs=12, batch=32
    )
    scores = [row["validation_accuracy"] for row in history.epochs]
    assert history.best_epoch == 1 + int(np.argmax(scores)) < 12
    found = evaluate(NET, history.params, history.state, *HELD)
    assert found.accuracy == pytest.approx(max(scores))


def test_the_last_parameters_are_kept_on_request():
    history = fit(NET, DATA, validation=HELD, epochs=3, batch=32, keep="last")
    assert history.best_epoch == 3
    leaves_equal(history.params, history.last.params, rtol=0)


def test_patience_stops_early_and_a_seed_stops_as_it_would_alone():
    options = {
        "validation": HELD, "epochs": 40, "batch": 32, "patience": 2,
        "optimizer": optax.adam(0.05),
    }  # fmt: skip
    together = fit(NET, DATA, seeds=[0, 1], **options)
    assert together.stopped == "early stopping"
    for i in range(2):
        alone = fit(NET, DATA, seeds=i, **options)
        assert alone.stopped == "early stopping"
        assert together.best_epoch[i] == alone.best_epoch


def test_regression_keeps_the_best_by_loss():
    x, _ = blobs(128)
    target = x[:, :2] * 2 + 1
    history = fit(
        mlp([6, 8, 2]), (x, target), validation=(x[:32], target[:32]), loss=mse,
        epochs=5, batch=32,
    )  # fmt: skip
    losses = [row["validation_loss"] for row in history.epochs]
    assert history.best_epoch == 1 + int(np.argmin(losses))


def test_uint8_images_train_as_the_same_floats():
    x, y = pixels(128)
    net = mlp([16, 8, 3])
    floats = x.astype(np.float64) * (1 / 255)
    a = fit(net, (x, y), epochs=2, batch=32)
    b = fit(net, (floats, y), epochs=2, batch=32)
    leaves_equal(a.params, b.params, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_parameters_stay_in_the_dtype_asked_for(dtype):
    history = fit(NET, DATA, epochs=2, batch=32, dtype=dtype)
    kinds = {str(a.dtype) for a in jax.tree.leaves((history.params, history.state))}
    assert kinds == {dtype}
    assert history.epochs[-1]["loss"] < history.epochs[0]["loss"]


def test_bad_steps_are_skipped_and_counted():
    x, y = blobs(256)
    order = batch_order(256, 32, 1)
    net = mlp([6, 8, 3])
    clean = fit(net, (x, y), epochs=1, batch=32, loss=mse)
    x = x.copy()
    x[order[2, 5], 0] = 1e300  # finite, so the data check passes; its square is not
    history = fit(net, (x, y), epochs=1, batch=32, loss=mse)
    assert history.epochs[0]["skipped"] == int(history.last.skipped) == 1
    assert clean.epochs[0]["skipped"] == 0
    assert all(np.isfinite(a).all() for a in jax.tree.leaves(history.params))


def test_divergence_raises_with_the_history_and_finite_parameters():
    net = mlp([6, 8, 3], activation="softplus")
    with pytest.raises(TrainingError, match=r"3 steps in a row.*seed 1") as caught:
        fit(
            net, DATA, loss=mse, optimizer=optax.sgd(1e200), epochs=5, batch=32,
            seeds=[1], max_bad_steps=3,
        )  # fmt: skip
    history = caught.value.history
    assert history.stopped == "diverged"
    assert all(np.isfinite(a).all() for a in jax.tree.leaves(history.params))


def test_ctrl_c_ends_after_the_running_epoch_with_what_was_learned():
    def interrupt(row):
        if row["epoch"] == 2:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    history = fit(NET, DATA, validation=HELD, epochs=50, batch=32, on_epoch=interrupt)
    assert history.stopped == "interrupted"
    assert len(history.epochs) == 2
    assert signal.getsignal(signal.SIGINT) is before
    evaluate(NET, history.params, history.state, *HELD)


def test_fit_works_outside_the_main_thread():
    found = []
    thread = threading.Thread(
        target=lambda: found.append(fit(NET, DATA, epochs=1, batch=32).stopped)
    )
    thread.start()
    thread.join()
    assert found == ["finished"]


def spoilt(rows, features, place, value):
    """So many rows, one number of x (place of two) or of the labels changed."""
    x, y = blobs(rows)
    (x if len(place) == 2 else y)[place] = value
    return x[:, :features], y


WRONG_LABEL = spoilt(64, 6, (7,), 3)
REFUSED = [
    ({"batch": 512}, "batch=512 but only 256 training rows"),
    ({"batch": 0}, "batch=0"),
    ({"epochs": 0}, "epochs=0"),
    ({"shuffle": "random"}, "valid: shared, per-seed"),
    ({"seeds": []}, "at least one seed"),
    ({"keep": "first"}, "valid: best, last"),
    ({"patience": 3}, "patience=3 has no effect without validation"),
    ({"keep": "best"}, 'keep="best" has no effect without validation'),
    ({"max_bad_steps": 3, "guard": "stop"}, 'has no effect with guard="stop"'),
    ({"patience": 0, "validation": HELD}, "patience=0, expected at least 1"),
    ({"data": (DATA[0], DATA[1][:-1])}, "256 inputs and 255 targets"),
    ({"data": spoilt(64, 6, (5, 2), np.nan)}, r"1 non-finite values.*\(5, 2\)"),
    ({"data": spoilt(64, 5, (7,), 0)}, "widths"),
    ({"data": WRONG_LABEL}, r"label 3 at index 7.*3 outputs.*0 to 2"),
    ({"validation": WRONG_LABEL}, "validation has label 3 at index 7"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED)
def test_what_cannot_be_trained_is_named(change, message):
    given = {"data": DATA, "epochs": 1, "batch": 32} | change
    with pytest.raises(JaxnnError, match=message):
        fit(NET, given.pop("data"), **given)


def optimizer(init=lambda params: (), update=lambda grads, state, params: (grads, ())):
    return optax.GradientTransformation(init, update)


def zeros(params):
    return jax.tree.map(np.zeros_like, params)


WRONG = {
    "penalty: a value": {"penalty": lambda params: 0.0},
    "penalty: gradients of the first layer": {"penalty": lambda p: (0.0, zeros(p[0]))},
    "penalty: raises": {"penalty": lambda params: {}["w"]},
    "project: None": {"project": lambda params: None},
    "project: another shape": {"project": lambda p: jax.tree.map(lambda a: a.sum(), p)},
    "mixup: a pair": {"mixup": lambda key, x, y, weights: (x, y)},
    "mixup: half of the rows": {"mixup": lambda key, x, y, w: (x[:16], y[:16], w)},
    "augment: labels": {"augment": lambda key, x: x.argmax(1)},
    "weight_noise: no tree": {"weight_noise": lambda key, params: 0.0},
    "loss: a value": {"loss": lambda pred, target: pred.sum()},
    "loss: of each sample": {"loss": lambda pred, target: (pred.sum(1), pred)},
    "loss: one argument": {"loss": lambda pred: (pred.sum(), pred)},
    "optimizer.update: no state": {"optimizer": optimizer(update=lambda g, s, p: g)},
    "optimizer.update: a growing state": {
        "optimizer": optimizer(update=lambda g, s, p: (g, (*s, 0.0)))
    },
    "optimizer.init: raises": {"optimizer": optimizer(init=lambda: ())},
}


@pytest.mark.parametrize("name", WRONG)
def test_what_a_function_of_the_step_returns_is_looked_at_before_training(name):
    which, reason = name.split(": ")
    message = f"fit: {which} (returned|raised [A-Z]).*expected"
    with pytest.raises(JaxnnError, match=message) as caught:
        fit(NET, DATA, **({"epochs": 1, "batch": 32} | WRONG[name]))
    assert ("raised" in str(caught.value)) == (reason in ("raises", "one argument"))


@pytest.mark.parametrize("seed", [0, 2])
def test_a_step_that_dropout_makes_bad_does_not_end_a_run_that_rolls_back(seed):
    x, y = blobs(256)
    net = serial(dense(32), relu, dropout(0.99), dense(3))
    options = {"epochs": 4, "batch": 32, "optimizer": optax.adam(0.01), "seeds": seed}
    found = fit(net, (x, y), guard="rollback", dtype="float32", **options)
    assert found.stopped == "finished"


def test_a_run_in_which_every_step_is_bad_ends_after_twenty_rollbacks():
    options = {"epochs": 4, "batch": 32, "optimizer": optax.sgd(1e30)}
    with pytest.raises(TrainingError, match="20 rollbacks"):
        fit(mlp([6, 8, 3]), DATA, guard="rollback", **options)


def test_predict_pads_the_last_batch_and_gives_every_row():
    history = fit(NET, DATA, epochs=1, batch=32)
    whole = predict(NET, history.params, history.state, DATA[0])
    parts = predict(NET, history.params, history.state, DATA[0], batch=100)
    np.testing.assert_allclose(parts, whole, rtol=1e-10)
    assert whole.shape == (256, 3)


def test_names_stand_for_an_optimizer_and_a_loss_and_x_y_for_a_pair():
    same = {"epochs": 1, "batch": 32}
    by_name = fit(NET, *DATA, optimizer="sgd", loss="softmax_focal", **same)
    sgd = optimizer_by_name("sgd")
    itself = fit(NET, DATA, optimizer=sgd, loss=softmax_focal, **same)
    leaves_equal(by_name.params, itself.params)
    found = evaluate(NET, itself.params, itself.state, *HELD, loss="softmax_focal")
    assert found.loss == evaluate(
        NET, itself.params, itself.state, *HELD, loss=softmax_focal
    ).loss  # fmt: skip
    for bad in ({"optimizer": "adm"}, {"loss": "softmax_focl"}):
        with pytest.raises(JaxnnError, match="Did you mean"):
            fit(NET, *DATA, **bad)
    with pytest.raises(JaxnnError, match="relu is a layer already"):
        relu()
