"""The rivals learn, do the same work as each other, and say why they cannot run."""

import functools
import gzip
import importlib
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.bench import cnn as our_cnn
from experiments.rivals import (
    CNN_RIVALS,
    RIVALS,
    Task,
    UnavailableError,
    batches,
    jax_grad,
    load,
    numpy_twin,
    start,
    unit,
)
from jaxnn.errors import JaxnnError
from jaxnn.losses import softmax_cross_entropy

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "numpy_twin": "numpy", "jax_grad_scan": "optax", "jax_grad_loop": "optax",
    "torch_eager": "torch", "torch_autocast": "torch", "torch_compiled": "torch",
    "flax_nnx": "flax", "equinox_loop": "equinox", "sklearn_mlp": "sklearn",
}  # fmt: skip
CASES = [
    pytest.param(name, marks=pytest.mark.slow if name == "torch_compiled" else ())
    for name in RIVALS
]
WIDTHS = (784, 30, 10)


@pytest.fixture(scope="module")
def digits():
    def read(name, header):
        raw = gzip.decompress((ROOT / "data" / "mnist" / name).read_bytes())
        return np.frombuffer(raw, np.uint8, offset=header)

    x = read("train-images-idx3-ubyte.gz", 16).reshape(-1, 784)[:2_010]
    y = read("train-labels-idx1-ubyte.gz", 8)[:2_010].astype(np.int32)
    return x, y


def train(name, digits, optimizer, learning_rate, epochs=3):
    pytest.importorskip(PACKAGES[name])
    make = load(name)
    try:
        rival = make(Task(32, optimizer, learning_rate, *digits, WIDTHS))
    except UnavailableError as reason:
        pytest.skip(str(reason))
    return rival, [rival.epoch(index) for index in range(epochs)]


@pytest.fixture(scope="module")
def path(digits):
    """The losses of the NumPy twin, which every other rival must reproduce."""
    return {
        (optimizer, rate): train("numpy_twin", digits, optimizer, rate)[1]
        for optimizer, rate in (("sgd", 0.1), ("adam", 0.002))
    }


def test_every_rival_has_a_test_case():
    assert PACKAGES.keys() == RIVALS.keys()


@pytest.mark.parametrize(("optimizer", "rate"), [("sgd", 0.1), ("adam", 0.002)])
@pytest.mark.parametrize("name", CASES)
def test_rival_learns_and_walks_the_common_path(name, optimizer, rate, digits, path):
    rival, losses = train(name, digits, optimizer, rate)
    assert rival.name == name
    assert rival.version[0].isdigit()
    assert rival.accuracy(*digits) > 0.8
    # scikit-learn draws its own start and order, autocast rounds to bfloat16
    rtol = {"sklearn_mlp": 0.2, "torch_autocast": 0.01}.get(name, 1e-3)
    np.testing.assert_allclose(losses, path[optimizer, rate], rtol=rtol)


@pytest.mark.parametrize("widths", [(7, 4), (7, 5, 4), (7, 6, 5, 4)])
def test_numpy_gradient_is_jax_grads(widths):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((8, 7)), rng.integers(0, 4, 8)

    def mean_loss(params):
        h = x
        for w, b in params[:-1]:
            h = jax.nn.relu(h @ w + b[None])
        w, b = params[-1]
        return -jnp.mean(jax.nn.log_softmax(h @ w + b[None])[jnp.arange(8), y])

    with jax.enable_x64(True):
        params = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), start(widths, 1))
        expected_loss, expected = jax.value_and_grad(mean_loss)(params)
        expected = np.concatenate([a.ravel() for a in jax.tree.leaves(expected)])
    net = numpy_twin.network(widths, 8, 1, np.float64)
    for _ in range(2):  # the second call finds the buffers used
        loss = net.gradient(x, y, 1 / 8)
        np.testing.assert_allclose(loss / 8, expected_loss, rtol=1e-10)
        np.testing.assert_allclose(net.grads, expected, rtol=1e-10, atol=1e-12)


def cnn_params():
    """The rivals' first weights as the parameters of our network."""
    layers = [{"w": jnp.asarray(w), "b": jnp.asarray(b)} for w, b in start((), 0)]
    first, second, third, last = layers
    return (first, (), (), second, (), (), (), third, (), last)


@jax.jit
def cnn_gradient(x, y):
    """Mean loss and the gradient of each w and b, by jaxnn's backward pass."""
    net, params = our_cnn(), cnn_params()
    state = ((),) * len(params)
    logits, _, cache = net.forward(params, state, x, train=True)
    value, dlogits = softmax_cross_entropy(logits, y)
    _, grads = net.backward(cache, dlogits)
    return value, [(g["w"], g["b"]) for g in grads if g]


def cnn_images(digits):
    x, y = digits
    return unit(x[:2]).reshape(2, 784), y[:2]  # a convolution takes its time


def test_cnn_of_the_rivals_has_our_loss_and_gradient(digits):
    x, y = cnn_images(digits)
    ours = cnn_gradient(x.reshape(2, 28, 28, 1), y)
    loss_of = functools.partial(jax_grad.mean_loss, jax_grad.cnn_logits)
    theirs = jax.jit(jax.value_and_grad(loss_of))(start((), 0), x, y)
    for got, want in zip(*map(jax.tree.leaves, (ours, theirs)), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=2e-5 * abs(want).max())


def test_cnn_of_torch_has_our_loss_and_gradient(digits):
    torch = pytest.importorskip("torch")
    torch_eager = importlib.import_module("experiments.rivals.torch_eager")
    network = torch_eager.CNN(start((), 0))
    x, y = cnn_images(digits)
    loss = torch.nn.functional.cross_entropy(
        network(torch.from_numpy(x)), torch.from_numpy(y.astype(np.int64))
    )
    loss.backward()
    value, grads = cnn_gradient(x.reshape(2, 28, 28, 1), y)
    np.testing.assert_allclose(value, loss.item(), rtol=1e-5)
    theirs = [p.grad.numpy() for p in network.parameters()]
    theirs[0], theirs[2] = (g.transpose(2, 3, 1, 0) for g in (theirs[0], theirs[2]))
    third = theirs[4].T.reshape(64, 7, 7, 1024).transpose(1, 2, 0, 3)
    theirs[4], theirs[6] = third.reshape(7 * 7 * 64, 1024), theirs[6].T
    for got, want in zip(jax.tree.leaves(grads), theirs, strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=2e-5 * abs(want).max())


@pytest.mark.slow
def test_cnn_rivals_walk_the_common_path(digits):
    few = digits[0][:16], digits[1][:16]  # the scan is what takes seconds a step
    losses = {}
    for name in CNN_RIVALS:
        try:
            rival = load(name)(Task(8, "adam", 1e-3, *few))
        except UnavailableError:
            continue
        assert rival.name == name
        losses[name] = [rival.epoch(index) for index in range(2)]
        assert 0 <= rival.accuracy(*few) <= 1
    for name, path in losses.items():
        rtol = 0.02 if name == "torch_autocast" else 1e-3
        np.testing.assert_allclose(path, losses["jax_grad_loop"], rtol=rtol)


def test_batches_hold_each_image_once_in_a_new_order_each_epoch():
    task = Task(10, "sgd", 0.1, np.zeros((103, 1)), np.zeros(103))
    first, second = (batches(task, index) for index in (0, 1))
    assert first.shape == (10, 10)
    assert len(set(first.ravel())) == 100
    assert (first != second).any()
    assert (first == batches(task, 0)).all()


@pytest.mark.parametrize("batch", [0, 104])
def test_batch_size_is_checked(batch):
    with pytest.raises(JaxnnError, match=f"got batch {batch}, expected 1 to 103"):
        batches(Task(batch, "sgd", 0.1, np.zeros((103, 1)), np.zeros(103)), 0)


@pytest.mark.parametrize("name", [n for n in RIVALS if n != "torch_compiled"])
def test_unknown_optimizer_lists_the_valid_ones(name, digits):
    pytest.importorskip(PACKAGES[name])
    with pytest.raises(JaxnnError, match="Valid names: adam, sgd"):
        load(name)(Task(32, "sdg", 0.1, *digits, WIDTHS))


def test_unknown_rival_lists_the_valid_ones():
    with pytest.raises(JaxnnError, match="Did you mean 'torch_eager'"):
        load("torch_eagre")


def test_missing_package_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)  # import now raises
    monkeypatch.delitem(sys.modules, "experiments.rivals.sklearn_mlp", raising=False)
    with pytest.raises(UnavailableError, match=r"'sklearn'.*pip install -e '\.\[bench"):
        load("sklearn_mlp")


def test_listing_the_rivals_imports_none_of_their_libraries():
    code = (
        "import sys, experiments.rivals;"
        "assert not {'jax', 'torch', 'sklearn'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
