"""Wrong and unusual inputs of the Python API: refused with a reason, or right.

Every row of the tables is a call that must raise a `JaxnnError` (a message that says
what was got), or one whose result must equal that of plain arrays.
"""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnn import (
    Classifier,
    attacks,
    evaluate,
    fit,
    mlp,
    parallel,
    predict,
    residual,
    serial,
)
from jaxnn import layers as nn
from jaxnn.arrays import as_array, check_unit
from jaxnn.data import from_arrays
from jaxnn.errors import JaxnnError
from jaxnn.interop import as_jax, from_jax, layer_from_jax
from jaxnn.losses import LOSSES, mse, sigmoid_cross_entropy
from tests.train.problem import blobs

X, Y = blobs(24)
X32 = X.astype(np.float32)
NET, KEY = mlp([6, 4, 3]), jax.random.key(0)
ONE = mlp([6, 1])


@functools.cache
def trained():
    return NET.init(KEY, (6,))[:2]


@functools.cache
def stacked():
    params, state = trained()
    return jax.tree.map(lambda a: jnp.stack([a, a]), (params, state))


def fitted(data=(X, Y), net=NET, **options):
    return lambda: fit(net, data, **({"epochs": 1, "batch": 8} | options))


def evaluated(x=X, y=Y, net=NET, given=trained, **options):
    return lambda: evaluate(net, *given(), x, y, **options)


def predicted(x=X, net=NET, given=trained, **options):
    return lambda: predict(net, *given(), x, **options)


def with_nan(a):
    a = np.array(a, float)
    a[3] = np.nan
    return a


class Sparse:
    """As scipy's matrices look."""

    shape = (24, 6)

    def toarray(self):
        return X


# what cannot be data, whoever asks
NO_NUMBERS = {
    "text": "no data", "texts": np.array([["a"] * 6] * 24),
    "objects": np.array([[None] * 6] * 24), "ragged": [[1.0, 2.0]] * 23 + [[1.0]],
    "complex": X + 1j, "dates": np.full((24, 6), "2020-01-01", "datetime64[D]"),
    "none": None, "dict": {"x": X}, "set": {1.0, 2.0}, "generator": (row for row in X),
    "number": 3.0, "masked": np.ma.masked_array(X, X > 0), "sparse": Sparse(),
    "no rows": X[:0], "key": jax.random.split(KEY, 24), "function": len,
}  # fmt: skip
LABELS = {
    "text": ["a"] * 24, "floats": Y.astype(float), "too large": Y + 1,
    "negative": Y - 1, "column": Y[:, None], "other length": Y[:-1],
    "one-hot of others": np.eye(5)[Y], "objects": np.array([None] * 24),
    "no rows": Y[:0], "number": 3, "none": None,
}  # fmt: skip
ONE_OUTPUT = {
    "labels 0 to 2": (Y, sigmoid_cross_entropy),
    "labels -1 and 1": (np.where(Y > 0, 1, -1), sigmoid_cross_entropy),
    "whole numbers for mse": (Y, mse),
    "floats without their axis": (Y * 0.5, mse),
}
COUNTS = [0, -1, 1.5, "3", None, True, float("nan"), [2]]
NO_LAYERS = [3, "dense", nn.dense, [nn.dense(3)], None, lambda x: x, jnp.ones(3)]

PRED = X32[:, :3]
BYTES = np.random.default_rng(0).integers(0, 256, (24, 8, 8)).astype(np.uint8)
PIXELS = mlp([64, 3])


@functools.cache
def of_pixels():
    return PIXELS.init(KEY, (8, 8))[:2]


# pixels of bytes, but not as bytes: everywhere the same words
AS_OTHERS = {
    "floats": BYTES.astype(np.float32), "flat": BYTES.reshape(24, 64).astype(float),
    "whole": BYTES.astype(np.int64), "lists": BYTES.tolist(),
    "channels": BYTES[..., None] * 0.99,
}  # fmt: skip

REFUSED = {
    **{f"fit x: {k}": fitted((x, Y)) for k, x in NO_NUMBERS.items()},
    **{f"evaluate x: {k}": evaluated(x) for k, x in NO_NUMBERS.items()},
    **{f"predict x: {k}": predicted(x) for k, x in NO_NUMBERS.items()},
    **{f"fit y: {k}": fitted((X, y)) for k, y in LABELS.items()},
    **{f"evaluate y: {k}": evaluated(y=y) for k, y in LABELS.items()},
    **{f"validation y: {k}": fitted(validation=(X, y)) for k, y in LABELS.items()},
    "nll on logits": fitted(loss="nll"),
    "cross-entropy on probabilities": fitted(net=mlp([6, 4, 3], output="softmax")),
    "two classes, sigmoid twice": fitted(
        (X, Y % 2), mlp([6, 1], output="sigmoid"), loss=sigmoid_cross_entropy
    ),
    **{
        f"one output: {k}": fitted((X, y), ONE, loss=loss)
        for k, (y, loss) in ONE_OUTPUT.items()
    },
    **{f"fit epochs={n!r}": fitted(epochs=n) for n in COUNTS},
    **{f"fit batch={n!r}": fitted(batch=n) for n in COUNTS},
    **{f"predict batch={n!r}": predicted(batch=n) for n in COUNTS},
    **{
        f"fit {name}={n!r}": fitted(**{name: n})
        for name in ("steps_per_call", "max_bad_steps", "patience")
        for n in COUNTS
        if n is not None or name == "max_bad_steps"
    },
    **{
        f"fit seeds={s!r}": fitted(seeds=s)
        for s in ([], -1, 2**32, 1e9, "0", None, [0, -1], [0.5], True, [[0]], {0})
    },
    **{f"fit net={n!r}": fitted(net=n) for n in (3, "mlp", mlp, None, [nn.dense(3)])},
    **{f"evaluate net={n!r}": evaluated(net=n) for n in (3, None, nn.dense)},
    **{
        f"fit {name}={value!r}": fitted(**{name: value})
        for name, value in {
            "loss": "msee", "optimizer": "adamm", "penalty": 0.1, "project": 1.0,
            "augment": "digits", "mixup": 0.2, "weight_noise": 0.1, "on_epoch": 3,
            "shuffle": "mine", "keep": "first", "guard": "on", "dtype": "int32",
            "class_weights": "even", "weights": [1.0], "clip_norm": 0, "clip_value": -1,
            "ema": 1.5, "defense": "pgd", "snapshots": "here", "mesh": 2,
        }.items()
    },
    "fit dtype no type": fitted(dtype="floaty"),
    "fit dtype of 8 bits": fitted(dtype="float8_e4m3fn"),
    "fit clip_norm no number": fitted(clip_norm="1"),
    "fit clip_value no number": fitted(clip_value=[1.0]),
    "fit ema no number": fitted(ema="0.9"),
    "fit weights all 0": fitted(weights=np.zeros(24)),
    "fit class_weights all 0": fitted(class_weights=[0, 0, 0]),
    "fit labels beyond int32": fitted((X, Y.astype(int) + 2**40)),
    "evaluate labels beyond int32": evaluated(y=Y.astype(int) - 2**40),
    "evaluate loss of no name": evaluated(loss="msee"),
    "fit dtype a number": fitted(dtype=3),
    "fit optimizer not called": fitted(optimizer=optax.adam),
    "fit data alone": fitted(X),
    "fit data of three": fitted((X, Y, Y)),
    "fit data None": fitted(None),
    "fit batch > data": fitted(batch=25),
    "fit NaN in x": fitted((with_nan(X), Y)),
    "fit inf in x": fitted((np.where(X > 2, np.inf, X), Y)),
    "fit NaN in y": fitted((X, with_nan(np.eye(3)[Y]))),
    "fit NaN in validation": fitted(validation=(with_nan(X), Y)),
    "fit images into dense layers": fitted((X.reshape(24, 2, 3), Y), mlp([3, 3])),
    "fit other features": fitted(validation=(X[:, :5], Y)),
    "fit pixels in bytes, validation in floats": fitted(
        ((X - X.min()).astype(np.uint8), Y), validation=(X - X.min() + 100, Y)
    ),
    "fit pixels in floats, validation in bytes": fitted(
        (X - X.min() + 100, Y), validation=((X - X.min()).astype(np.uint8), Y)
    ),
    **{f"fit pixels: {k}": fitted((x, Y), PIXELS) for k, x in AS_OTHERS.items()},
    "validation pixels": fitted(
        (BYTES / 255, Y), PIXELS, validation=(AS_OTHERS["floats"], Y)
    ),
    "evaluate pixels": evaluated(AS_OTHERS["floats"], net=PIXELS, given=of_pixels),
    "predict pixels": predicted(AS_OTHERS["floats"], net=PIXELS, given=of_pixels),
    "attack pixels": lambda: attacks.fgsm(
        Classifier(PIXELS, *of_pixels()), AS_OTHERS["floats"], Y, epsilon=0.1
    ),
    "attack seeds' params": lambda: attacks.fgsm(
        Classifier(NET, *stacked()), abs(X32) / 100, Y, epsilon=0.1
    ),
    "fit optimiser": fitted(optimiser="adam"),
    "fit a data set": fitted(from_arrays(BYTES, Y, BYTES, Y, validation=0)),
    "evaluate weights": evaluated(weights=None),
    "dense activation": lambda: nn.dense(3, activation="relu"),
    "predict other features": predicted(X[:, :5]),
    "predict one row without its axis": predicted(X[0]),
    "predict seeds' params": predicted(given=stacked),
    "predict seeds=True, single params": predicted(seeds=True),
    "evaluate seeds=True, single params": evaluated(seeds=True),
    "predict no params": predicted(given=lambda: ((), ())),
    "predict another network's params": predicted(
        given=lambda: mlp([6, 5, 5, 3]).init(KEY, (6,))[:2]
    ),
    "predict another network's state": predicted(given=lambda: (trained()[0], {})),
    **{f"serial({n!r})": lambda n=n: serial(n) for n in NO_LAYERS},
    **{f"parallel({n!r})": lambda n=n: parallel(nn.dense(2), n) for n in NO_LAYERS},
    **{f"residual({n!r})": lambda n=n: residual(n) for n in NO_LAYERS},
    **{
        f"{make.__name__}({n!r})": lambda make=make, n=n: make(n)
        for make in (nn.dense, nn.conv, nn.lstm, nn.group_norm)
        for n in (0, -3, 2.5, "8", None, True, float("nan"))
    },
    **{
        f"{make.__name__}({n!r})": lambda make=make, n=n: make(n)
        for make in (nn.dropout, nn.gaussian_noise, nn.avg_pool)
        for n in (-0.1, float("nan"), "half", None, [0.1])
    },
    **{
        f"{name} of {n!r}": lambda make=make, n=n: make(n).init(KEY, (4, 4, 3))
        for name, make in {
            "max_pool": nn.max_pool, "upsample": nn.upsample, "pad": nn.pad,
            "crop": nn.crop, "conv kernel": lambda n: nn.conv(2, n),
            "conv stride": lambda n: nn.conv(2, 3, n),
            "depthwise": nn.depthwise_conv, "conv1d": lambda n: nn.conv1d(2, n),
            "conv_transpose": lambda n: nn.conv_transpose(2, n),
        }.items()
        for n in (-1, 0.5, None, "two", (1, 2, 3, 4), float("nan"))
    },
    **{
        f"{make.__name__}{args!r}": lambda make=make, args=args: make(*args)
        for make in (nn.embedding, nn.multi_head_attention)
        for args in ((0, 3), (3, 0), (2.5, 3), ("3", 3), (3, -1), (True, 2))
    },
    **{
        f"reshape({n!r})": lambda n=n: nn.reshape(n).init(KEY, (4, 3))
        for n in (5, -2, 2.5, "12", None, float("nan"))
    },
    **{f"as_jax({n!r})": lambda n=n: as_jax(n) for n in (3, nn.dense, None, "relu")},
    **{f"from_jax({n!r})": lambda n=n: from_jax(n) for n in (3, None, "sinc")},
    "layer_from_jax(3)": lambda: layer_from_jax(3),
    "layer_from_jax init no function": lambda: layer_from_jax(jnp.sin, init=3),
    "layer_from_jax whole params": lambda: layer_from_jax(
        lambda p, x: p * x, lambda key, shape: jnp.ones(shape, int)
    ).init(KEY, (3,)),
    **{
        f"init key={k!r}": lambda k=k: NET.init(k, (6,))
        for k in (0, None, 1.5, "key", [0, 0])
    },
    **{
        f"init in_shape={s!r}": lambda s=s: NET.init(KEY, s)
        for s in (6, (0,), (-6,), (6.0,), ("6",), None, (None, 6))
    },
    **{
        f"{layer.name} key={k!r}": lambda layer=layer, k=k: layer.forward(
            (), (), X, key=k, train=True
        )
        for layer in (nn.dropout(0.5), nn.gaussian_noise(0.1))
        for k in (0, None, "key")
    },
    **{
        f"{name} {what}": lambda loss=loss, args=args: loss(*args)
        for name, loss in LOSSES.items()
        for what, args in {
            "int predictions": (Y[:, None], Y[:, None]),
            "text": (PRED, ["a"] * 24),
            "ragged": ([[1.0], [1.0, 2.0]], [0, 1]),
            "no rows": (PRED[:0], Y[:0]),
            "other length": (PRED, Y[:-1]),
            "float labels": (PRED, Y.astype(float)),
            "objects": (PRED, np.array([None] * 24)),
        }.items()
    },
}  # fmt: skip
# without addresses: names of tests are the same in every process
NAMES = [re.sub(r" at 0x\w+", "", name) for name in REFUSED]


@pytest.mark.parametrize("call", REFUSED.values(), ids=NAMES)
def test_what_cannot_be_is_refused(call):
    with pytest.raises(JaxnnError):
        call()


@pytest.mark.parametrize("name", AS_OTHERS)
def test_pixels_of_bytes_are_told_from_other_numbers(name):
    words = r"t: got x of .* expected pixels in \[0, 1\]: divide by 255, or .* uint8"
    with pytest.raises(JaxnnError, match=words):
        check_unit(AS_OTHERS[name], "t", "x")


def test_other_numbers_are_no_pixels_of_bytes():
    whole = BYTES.astype(float)
    for x in (
        BYTES, whole / 255, whole // 16, whole - 1, whole * 2, whole * 0.99,
        whole[:, :5, :5], whole - whole.mean(), BYTES > 9, whole[0, 0],
    ):  # fmt: skip
        check_unit(x, "t", "x")
    words = serial(nn.embedding(256, 2), nn.flatten, nn.dense(3))
    assert fitted((BYTES.reshape(24, 64).astype(int), Y), words)().stopped == "finished"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (fitted(optimiser="adam"), "fit: got optimiser=, did you mean optimizer=?"),
        (fitted(learning_rate=0.1), "give it to the optimizer: optimizer=optax.adam("),
        (fitted(nb_epochs=3), "did you mean epochs=?"),
        (fitted(batch_size=3), "did you mean batch=?"),
        (fitted(validation_data=(X, Y)), "did you mean validation=?"),
        (evaluated(criterion="mse"), "evaluate: got criterion=, did you mean loss=?"),
        (lambda: nn.dense(3, activation="relu"), "it takes bias, init, width"),
        (lambda: nn.dense(3, initializer="he"), "did you mean init=?"),
        (fitted(optimizer="Adam"), "Did you mean 'adam'?"),
        (fitted(optimizer="SGD"), "Did you mean 'sgd'?"),
        (fitted(loss="sparse_categorical_crossentropy"), "'softmax_cross_entropy'?"),
        (fitted(loss="mean_squared_error"), "Did you mean 'mse'?"),
        (lambda: attacks.fgsm(Classifier(NET, *stacked()), abs(X32) / 100, Y,
                              epsilon=0.1), "an axis of seeds in front"),
        (fitted(from_arrays(BYTES, Y, BYTES, Y, validation=0)), "data.train"),
        (lambda: nn.relu(), "is a layer already"),
    ],
)  # fmt: skip
def test_what_others_call_it_is_told(call, words):
    with pytest.raises(JaxnnError, match=re.escape(words)):
        call()


def test_the_table_is_long_enough():
    assert len(REFUSED) >= 400


def frame(a):
    pandas = pytest.importorskip("pandas")
    return pandas.DataFrame(a) if a.ndim == 2 else pandas.Series(a)


def tensor(a):
    return pytest.importorskip("torch").tensor(a)


READ = {
    "lists": lambda a: a.tolist(),
    "tuples": lambda a: tuple(map(tuple, a.tolist())) if a.ndim == 2 else tuple(a),
    "pandas": frame,
    "torch": tensor,
    "jax": jnp.asarray,
    "memory order": np.asfortranarray,
    "read-only": lambda a: np.broadcast_to(a, a.shape),
}


@pytest.mark.parametrize("read", READ.values(), ids=READ)
def test_other_kinds_of_arrays_say_the_same(read):
    got = evaluate(NET, *trained(), read(X), read(Y))
    want = evaluate(NET, *trained(), X, Y)
    np.testing.assert_array_equal(got.outputs, want.outputs)
    assert (got.loss, got.accuracy) == (want.loss, want.accuracy)


@pytest.mark.parametrize("name", ["lists", "pandas", "torch"])
def test_fit_takes_other_kinds_of_arrays(name):
    read = READ[name]
    got = fitted((read(X), read(Y)), validation=(read(X), read(Y)))()
    want = fitted(validation=(X, Y))()
    for a, b in zip(*map(jax.tree.leaves, (got.params, want.params)), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", ["int8", "int16", "int64", "uint8", "uint32"])
def test_labels_may_be_whole_numbers_of_any_width(dtype):
    got = evaluate(NET, *trained(), X, Y.astype(dtype))
    assert got.accuracy == evaluate(NET, *trained(), X, Y).accuracy


def test_bools_are_the_labels_0_and_1():
    params, state, _ = ONE.init(KEY, (6,))
    got, want = (
        evaluate(ONE, params, state, X, y, loss=sigmoid_cross_entropy)
        for y in (Y > 0, (Y > 0).astype(int))
    )
    assert (got.loss, got.accuracy) == (want.loss, want.accuracy)


def test_outputs_of_every_step_are_all_there():
    net = serial(nn.lstm(4, True), nn.dense(3))
    x, y = X.reshape(12, 2, 6), Y.reshape(12, 2)
    params, state, _ = net.init(KEY, (2, 6))
    whole = predict(net, params, state, x)
    assert whole.shape == (12, 2, 3)
    parts = predict(net, params, state, x, batch=5)
    np.testing.assert_allclose(parts, whole, rtol=1e-12)
    found = evaluate(net, params, state, x, y, batch=5)
    assert found.accuracy == (whole.argmax(-1) == y).mean()
    two = jax.tree.map(lambda a: jnp.stack([a, 2 * a]), (params, state))
    both = evaluate(net, *two, x, y, batch=5, seeds=True)
    assert both.outputs.shape == (2, 12, 2, 3)
    assert both.accuracy[0] == found.accuracy


def test_narrow_tensors_of_torch_are_read():
    torch = pytest.importorskip("torch")
    narrow = torch.ones(2, 3, dtype=torch.bfloat16, requires_grad=True)
    assert as_array(narrow, "test", "x").tolist() == [[1, 1, 1]] * 2
