"""`fit(start=...)`: training that goes on from another one."""

import functools

import jax
import numpy as np
import optax
import pytest

from jaxnn import mlp
from jaxnn.errors import JaxnnError
from jaxnn.train import Snapshots, fit
from tests.train.problem import blobs, leaves_equal

NET = mlp([6, 8, 3], normalize=True, drop_rate=0.1)
DATA, HELD = blobs(256), blobs(64, seed=1)
OTHER = mlp([6, 9, 3], normalize=True, drop_rate=0.1)
OPTIONS = {"batch": 32, "validation": HELD}


@functools.cache
def one():
    return fit(NET, DATA, epochs=1)


@pytest.mark.parametrize(
    "more", [{}, {"seeds": [0, 3], "ema": 0.9}, {"guard": "rollback", "clip_norm": 0.5}]
)
def test_two_epochs_and_three_more_are_five(more):
    options = OPTIONS | more
    whole = fit(NET, DATA, epochs=5, **options)
    first = fit(NET, DATA, epochs=2, **options)
    before = jax.tree.map(np.array, first.last)
    second = fit(NET, DATA, epochs=3, start=first, **options)
    assert [row["epoch"] for row in second.epochs] == [3, 4, 5]
    for row, same in zip(second.epochs, whole.epochs[2:], strict=True):
        assert row["loss"] == same["loss"]
    leaves_equal(second.last, whole.last)
    leaves_equal(first.last, before)  # its arrays are still there


def test_parameters_alone_begin_a_new_training_from_there():
    first = fit(NET, DATA, epochs=4, **OPTIONS)
    for start in (first.params, (first.params, first.state)):
        other = fit(NET, DATA, epochs=1, optimizer=optax.sgd(0.0), start=start)
        leaves_equal(other.params, first.params)
        assert other.epochs[0]["epoch"] == 1
        assert other.best_epoch == 1


def test_a_network_for_other_classes_starts_with_a_last_layer_of_its_own():
    net, data = mlp([6, 8, 2], normalize=True, drop_rate=0.1), (DATA[0], DATA[1] % 2)
    with pytest.raises(JaxnnError, match="For other classes take the last layer"):
        fit(net, data, epochs=1, start=one())
    new = net.init(jax.random.key(5), (6,))[0]
    start = (*one().params[:-1], new[-1])
    found = fit(net, data, epochs=1, start=start, optimizer=optax.sgd(0.0))
    leaves_equal(found.params, start)


def test_a_continued_run_that_was_cut_goes_on_from_its_snapshot(tmp_path):
    first = fit(NET, DATA, epochs=1, **OPTIONS)
    whole = fit(NET, DATA, epochs=2, start=first, **OPTIONS)
    for epochs in (1, 2):
        found = fit(
            NET, DATA, epochs=epochs, start=first, **OPTIONS,
            snapshots=Snapshots(tmp_path, resume=epochs > 1),
        )  # fmt: skip
    leaves_equal(found.last, whole.last)
    assert [row["epoch"] for row in found.epochs] == [2, 3]


@pytest.mark.parametrize(
    ("start", "options", "words"),
    [
        (lambda: 3, {}, "start of type int, expected a History"),
        (lambda: OTHER.init(jax.random.key(0), (6,))[0], {}, "params of another form"),
        (one, {"optimizer": optax.sgd(0.1)}, "opt of another form"),
        (one, {"seeds": [0, 1]}, "params of another form"),
        (one, {"ema": 0.9}, "ema of another form"),
    ],
)
def test_a_start_that_does_not_fit_is_named(start, options, words):
    with pytest.raises(JaxnnError, match=words):
        fit(NET, DATA, epochs=1, start=start(), **options)
