"""Networks as files of arrays: safetensors, and PyTorch's state dicts."""

import zipfile

import jax
import numpy as np
import pytest

from jaxnn import layers as n
from jaxnn.combine import freeze, remat, residual, serial
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


BLOCK = serial(n.conv(4, 3, bias=False), n.batch_norm(), n.relu, n.conv(4, 3))
SHORTER = serial(n.conv(6, 3, stride=2, padding=1), n.batch_norm())
NETS = {
    "chain": NET,
    "residual": serial(
        n.reshape(8, 6, 1), n.conv(4, 3), n.relu, residual(BLOCK), freeze(BLOCK),
        residual(SHORTER, n.conv(6, 1, stride=2, padding="VALID")), n.gelu(),
        remat(n.conv(5, 1)), n.flatten, n.dense(4), residual(n.dense(4)), n.dense(3),
    ),
    "recurrent": serial(
        n.lstm(5, True, go_backwards=True), n.gru(4, True), n.lstm(4, True),
        n.rnn(3, activation="relu"), n.dense(3),
    ),
}  # fmt: skip


def drawn32(net):
    params, state = jax.tree.map(lambda a: a.astype(np.float32), drawn(net, IMAGE))
    return Imported(net, params, state, IMAGE)


@pytest.fixture
def network():
    return drawn32(NET)


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


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="the extra `torch` is not installed")


@pytest.mark.parametrize("name", NETS)
def test_pytorch_computes_the_same_and_its_state_dict_comes_back(name, torch, tmp_path):
    network, made = drawn32(NETS[name]), {}
    source, arrays = to_torch(network)
    exec(source, made)
    tensors = {name: torch.from_numpy(np.array(a)) for name, a in arrays.items()}
    torch.save(tensors, tmp_path / "model.pt")
    model, x = made["load"](tmp_path / "model.pt"), images(*IMAGE).astype(np.float32)
    with torch.no_grad():
        got = model(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(got, outputs(network, x), rtol=1e-5, atol=1e-5)
    same(load_weights(tmp_path / "model.pt", NETS[name], IMAGE)[1:3], network[1:3])


SMALL = serial(n.reshape(8, 6, 1), n.conv(2, 3), n.flatten, n.dense(4), n.dense(4))


@pytest.fixture
def tensors(torch):
    _, arrays = to_torch(drawn32(SMALL))
    return {name: torch.from_numpy(np.array(a)) for name, a in arrays.items()}


def test_numbers_of_other_types_and_other_orders_of_layers_are_read(tensors, tmp_path):
    save_file = pytest.importorskip("safetensors.torch").save_file
    want = drawn32(SMALL)
    for kind, rtol in (("double", 0), ("half", 1e-3), ("bfloat16", 1e-2)):
        # sorted by name the second dense layer comes first, and has the other's shape
        names = {"1": "features.0", "3": "fc.2", "4": "fc.10"}
        changed = {
            f"{names[name[0]]}{name[1:]}": getattr(a, kind)().contiguous()
            for name, a in tensors.items()
        }
        save_file(changed, tmp_path / "a.safetensors")
        got = load_weights(tmp_path / "a.safetensors", SMALL, IMAGE)
        jax.tree.map(
            lambda a, b, rtol=rtol: np.testing.assert_allclose(a, b, rtol=rtol),
            got.params, want.params,
        )  # fmt: skip


def broken(tensors):
    """Files that are no weights of SMALL, by the words that say so."""
    w, last = tensors["3.weight"], tensors["4.weight"]
    return {
        "no arrays for dense.4.": {"3.weight": w.T},
        "no arrays for conv": {"1.weight": tensors["1.weight"].transpose(0, 1)},
        "no arrays for dense": {"4.weight_mask": last},
        "no layers for 5": {"5.weight": last},
        "3.weight holds numbers that are not finite": {"3.weight": w / 0},
        "4.bias holds int32, expected floats": {"4.bias": last[0].int()},
        "larger than the file": {"4.bias": last[:1, :1].expand(10**6, 10**6)},
        "holds dict, expected a state dict": {"5": {"weight": 3}},
    }


def test_what_does_not_fit_is_told(tensors, torch, tmp_path):
    path = tmp_path / "model.pt"
    for words, changed in broken(tensors).items():
        torch.save(tensors | changed, path)
        with pytest.raises(JaxnnError, match=words):
            load_weights(path, SMALL, IMAGE)
    torch.save(tensors, path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-200])
    with pytest.raises(JaxnnError, match="cannot be read as weights"):
        load_weights(path, SMALL, IMAGE)
    path.write_bytes(whole)
    with (
        zipfile.ZipFile(path) as file,
        zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for name in file.namelist():
            bomb.writestr(name, file.read(name))
        bomb.writestr("zeros", bytes(10**6))
    with pytest.raises(JaxnnError, match="bytes claim to hold 1,00"):
        load_weights(tmp_path / "bomb.pt", SMALL, IMAGE)
    del tensors["1.bias"], tensors["1.weight"]
    torch.save(tensors, path)
    with pytest.raises(JaxnnError, match="no arrays for conv"):
        load_weights(path, SMALL, IMAGE)


def test_code_in_a_file_is_never_run(torch, tmp_path):
    torch.save(torch.nn.Linear(2, 3), tmp_path / "model.pt")
    with pytest.raises(JaxnnError, match="code is never loaded"):
        load_weights(tmp_path / "model.pt", serial(n.dense(3)), (2,))


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (n.layer_norm(), "layer_norm has no form in PyTorch"),
        (n.lstm(3, mask_value=0), "LSTM with mask_value"),
    ],
)
def test_layers_without_a_form_in_pytorch_are_named(layer, words):
    with pytest.raises(JaxnnError, match=words):
        to_torch(drawn32(serial(layer)))
