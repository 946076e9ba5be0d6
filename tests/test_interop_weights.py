"""Networks as files of arrays: safetensors, and PyTorch's state dicts."""

import jax
import numpy as np
import pytest

from jaxnn import layers as n
from jaxnn.combine import serial
from jaxnn.errors import JaxnnError
from jaxnn.interop.onnx_in import Imported
from jaxnn.interop.weights import load_weights, save_safetensors, to_torch
from tests.test_interop_onnx import drawn, images

IMAGE = (8, 6)
NET = serial(
    n.standardize(0.1, 0.3), n.reshape(8, 6, 1),
    serial(n.conv(4, 3, stride=2, padding=1), n.batch_norm(), n.leaky_relu(0.1)),
    n.depthwise_conv(3, multiplier=2, bias=False), n.elu(0.5), n.max_pool(2, 1),
    n.avg_pool((1, 2)), n.flatten, n.batch_norm(), n.dropout(0.1), n.dense(5),
    n.dense(3, bias=False), n.softmax,
)  # fmt: skip


@pytest.fixture
def network():
    params, state = jax.tree.map(lambda a: a.astype(np.float32), drawn(NET, IMAGE))
    return Imported(NET, params, state, IMAGE)


def outputs(network, x):
    net, params, state, _ = network
    return np.asarray(net.forward(params, state, x, train=False)[0])


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_safetensors_come_back_with_their_network(network, tmp_path):
    pytest.importorskip("safetensors", reason="safetensors is not installed")
    save_safetensors(tmp_path / "net.safetensors", network)
    again = load_weights(tmp_path / "net.safetensors")
    assert (again.net, again.in_shape) == (NET, IMAGE)
    same(again[1:3], network[1:3])
    (tmp_path / "net.safetensors").write_bytes(b"none")
    with pytest.raises(JaxnnError, match="not whole safetensors"):
        load_weights(tmp_path / "net.safetensors")


def test_pytorch_computes_the_same_and_its_state_dict_comes_back(network, tmp_path):
    torch = pytest.importorskip("torch", reason="the extra `torch` is not installed")
    source, arrays = to_torch(network)
    made = {}
    exec(source, made)
    tensors = {name: torch.from_numpy(np.array(a)) for name, a in arrays.items()}
    torch.save(tensors, tmp_path / "model.pt")
    model, x = made["load"](tmp_path / "model.pt"), images(*IMAGE).astype(np.float32)
    with torch.no_grad():
        got = model(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(got, outputs(network, x), rtol=1e-5, atol=1e-5)
    same(load_weights(tmp_path / "model.pt", NET, IMAGE)[1:3], network[1:3])
    with pytest.raises(JaxnnError, match=r"expected 7: conv.*dense"):
        load_weights(tmp_path / "model.pt", serial(NET, n.dense(3)), IMAGE)


def test_code_in_a_file_is_never_run(tmp_path):
    torch = pytest.importorskip("torch", reason="the extra `torch` is not installed")
    torch.save(torch.nn.Linear(2, 3), tmp_path / "model.pt")
    with pytest.raises(JaxnnError, match="code is never loaded"):
        load_weights(tmp_path / "model.pt", serial(n.dense(3)), (2,))


def test_layers_without_a_form_in_pytorch_are_named(network):
    net = serial(n.lstm(3))
    params, state = drawn(net, IMAGE)
    with pytest.raises(JaxnnError, match=r"lstm.3. has no form in PyTorch"):
        to_torch(Imported(net, params, state, IMAGE))
