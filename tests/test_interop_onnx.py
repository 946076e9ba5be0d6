"""Networks in ONNX: what another program makes of them, and what is read back."""

import jax
import numpy as np
import pytest

from jaxnn import layers as n
from jaxnn.combine import freeze, mlp, parallel, remat, residual, serial, stack
from jaxnn.errors import JaxnnError
from jaxnn.interop.onnx_in import from_onnx
from jaxnn.interop.onnx_out import to_onnx
from jaxnn.rules import exp

onnx = pytest.importorskip("onnx", reason="the extra `onnx` is not installed")
runtime = pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")

IMAGE, GRAY = (8, 6), n.reshape(8, 6, 1)
NETS = {
    "mlp": mlp([48, 5, 3], normalize=True, drop_rate=0.3, output="log_softmax"),
    "cnn": serial(
        n.standardize(0.1, 0.3), GRAY, n.conv(4, 3, bias=False), n.batch_norm(), n.relu,
        n.max_pool(2), n.depthwise_conv(3, multiplier=2), n.leaky_relu(0.1),
        n.conv(4, (3, 2), stride=(2, 1), groups=2), n.elu(0.5), n.flatten, n.dense(3),
    ),
    "pools": serial(
        GRAY, n.conv(4, 3, padding="VALID", dilation=(2, 1)), n.tanh,
        n.avg_pool(2, padding="SAME"), n.softplus, n.max_pool((2, 3), 1, padding=1),
        n.pad((1, (0, 1), 0)), n.pad(1, "edge"), n.selu, n.transpose(1, 0, 2),
        n.global_max_pool, n.softmax,
    ),
    "residual": serial(
        GRAY, n.conv(4, 3), residual(serial(n.conv(4, 3), n.batch_norm(), n.gelu())),
        residual(n.conv(2, 1), projection=serial(n.swish(1.5), n.conv(2, 1))),
        parallel(n.conv(3, 1), n.gelu(approximate=True), merge="concatenate"),
        n.global_avg_pool, freeze(n.dense(4)), stack(remat(residual(n.dense(4))), 2),
    ),
    "lstm": serial(
        n.lstm(3, True), n.layer_norm(), n.dense(4), n.gru(3, True, go_backwards=True),
        n.rnn(4, True, activation="relu"), n.conv1d(5, 3, stride=2), n.batch_norm(),
        parallel(n.lstm(2), n.lstm(2, go_backwards=True), merge="sum"), n.sigmoid,
    ),
}  # fmt: skip


def drawn(net, in_shape=IMAGE):
    """Params and state without a zero or a one among them."""
    params, state, _ = net.init(jax.random.key(0), in_shape)
    leaves, tree = jax.tree.flatten((params, state))
    keys = jax.random.split(jax.random.key(1), len(leaves))
    moved = [
        a + 0.2 * jax.random.uniform(k, a.shape, a.dtype)
        for k, a in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(tree, moved)


def ran(model, x):
    """What onnxruntime makes of images."""
    session = runtime.InferenceSession(model.SerializeToString())
    return session.run(None, {session.get_inputs()[0].name: x.astype(np.float32)})[0]


def images(*shape, count=1000):
    return np.random.default_rng(0).uniform(size=(count, *shape))


@pytest.mark.parametrize("name", NETS)
def test_onnxruntime_gives_the_same_outputs(name):
    net, x = NETS[name], images(*IMAGE)
    params, state = drawn(net)
    want, _, _ = net.forward(params, state, x, train=False)
    got = ran(to_onnx(net, params, state, IMAGE), x)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_a_layer_without_a_form_is_named():
    net = serial(n.flatten, n.pointwise(exp), n.dense(3))
    with pytest.raises(JaxnnError, match="exp has no form in ONNX here"):
        to_onnx(net, *drawn(net), IMAGE)


# ---- read


def graph(nodes, arrays, in_shape):
    """An ONNX model of nodes (operation, inputs, settings), each on the one before."""
    made, live = [], "input"
    for i, (op, inputs, settings) in enumerate(nodes):
        given = [live if name == "x" else name for name in inputs]
        live = f"y{i}" if settings.pop("follow", True) else live
        outputs = [settings.pop("output", live)]
        made.append(onnx.helper.make_node(op, given, outputs, **settings))
    value, kind = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    constants = [
        onnx.numpy_helper.from_array(np.asarray(a), name) for name, a in arrays.items()
    ]
    whole = onnx.helper.make_graph(
        made, "network", [value("input", kind, in_shape)], [value(live, kind, None)],
        constants,
    )  # fmt: skip
    opset = [onnx.helper.make_opsetid("", 17)]
    return onnx.helper.make_model(whole, ir_version=8, opset_imports=opset)


def weights(**shapes):
    rng = np.random.default_rng(3)
    return {k: rng.normal(size=s).astype(np.float32) for k, s in shapes.items()}


def aside(op, inputs, output, **settings):
    """A node that is not on the chain."""
    return op, inputs, {"follow": False, "output": output, **settings}


AXIS = {"axis": 0}
CONV = graph(  # as PyTorch writes `x.view(x.size(0), -1)` behind convolutions
    [
        ("Sub", ["x", "mean"], {}), ("Div", ["x", "std"], {}),
        ("Conv", ["x", "k", "kb"], {"strides": [2, 1], "pads": [1, 0, 1, 2]}),
        ("BatchNormalization", ["x", "g", "be", "m", "v"], {"epsilon": 1e-3}),
        ("Relu", ["x"], {}), ("Conv", ["x", "k2"], {"group": 2}),
        ("Add", ["x", "k2b"], {}), ("LeakyRelu", ["x"], {"alpha": 0.2}),
        ("MaxPool", ["x"], {"kernel_shape": [2, 2], "strides": [1, 2]}),
        aside("Shape", ["x"], "shape"), aside("Gather", ["shape", "zero"], "n", **AXIS),
        aside("Unsqueeze", ["n", "zeros"], "n1"),
        aside("Concat", ["n1", "rest"], "sizes", **AXIS),
        ("Reshape", ["x", "sizes"], {}), ("MatMul", ["x", "w"], {}),
        ("Add", ["x", "b"], {}), ("Sigmoid", ["x"], {}), ("Mul", ["x", "scale"], {}),
        ("Gemm", ["x", "w2", "b2"], {"transB": 1, "alpha": 0.5}),
    ],
    weights(
        k=(4, 1, 3, 3), kb=(4,), g=(4,), be=(4,), m=(4,), k2=(6, 2, 2, 2),
        k2b=(6, 1, 1), w=(24, 5), b=(5,), scale=(1, 5), w2=(3, 5), b2=(3,),
    ) | {
        "v": np.arange(1, 5, dtype=np.float32), "mean": np.float32([[[[0.13]]]]),
        "std": np.float32(0.3), "zero": np.int64(0), "zeros": np.int64([0]),
        "rest": np.int64([-1]),
    },
    [1, 1, 8, 6],
)  # fmt: skip
DENSE = graph(  # as TensorFlow writes it, for a column of pixels
    [
        ("MatMul", ["w", "x"], {}), ("Add", ["x", "b"], {}), ("Relu", ["x"], {}),
        ("MatMul", ["w2", "x"], {}), ("Add", ["x", "b2"], {}), ("Flatten", ["x"], {}),
        ("Softmax", ["x"], {}),
    ],
    weights(w=(5, 48), b=(1, 5, 1), w2=(3, 5), b2=(3, 1)),
    [1, 48, 1],
)  # fmt: skip


def outputs(path, x):
    read = from_onnx(path, IMAGE)
    out = read.net.forward(read.params, read.state, x, train=False)[0]
    return np.asarray(out)


@pytest.mark.parametrize("model", [CONV, DENSE], ids=["conv", "dense"])
def test_a_network_from_elsewhere_gives_what_onnxruntime_gives(model, tmp_path):
    onnx.save(model, tmp_path / "net.onnx")
    x, shape = images(*IMAGE, count=20), model.graph.input[0].type.tensor_type.shape
    sizes = [d.dim_value for d in shape.dim]
    want = np.concatenate([ran(model, row.reshape(sizes)) for row in x])
    got = outputs(tmp_path / "net.onnx", x)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_what_was_written_is_read_again(name, tmp_path):
    net, x = NETS[name], images(*IMAGE, count=20)
    params, state = drawn(net)
    onnx.save(to_onnx(net, params, state, IMAGE), tmp_path / "net.onnx")
    want, _, _ = net.forward(params, state, x, train=False)
    got = outputs(tmp_path / "net.onnx", x)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_what_is_no_chain_is_refused(tmp_path):
    loop = graph([("Relu", ["x"], {}), ("Add", ["x", "input"], {})], {}, [1, 48])
    for model, words in (
        (loop, "takes two values of the graph"),
        (graph([("Erf", ["x"], {})], {}, [1, 48]), "Erf y0: this operation is not"),
        (graph([("Relu", ["x"], {})], {}, [1, 40]), "takes inputs .*40"),
    ):
        onnx.save(model, tmp_path / "net.onnx")
        with pytest.raises(JaxnnError, match=words):
            from_onnx(tmp_path / "net.onnx", IMAGE)
    (tmp_path / "net.onnx").write_bytes(b"no graph")
    with pytest.raises(JaxnnError, match="cannot be read as ONNX"):
        from_onnx(tmp_path / "net.onnx", IMAGE)
