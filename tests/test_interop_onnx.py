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


def model(in_shape, nodes, arrays, opset=17):
    """An ONNX model of x -> y in ONNX's own text; arrays drawn by shape, or given."""
    head = f'<ir_version: 8, opset_import: ["": {opset}]> net '
    made = onnx.parser.parse_model(
        f"{head}(float[{in_shape}] x) => (float[N, M] y) {{ {nodes} }}"
    )
    rng = np.random.default_rng(3)
    for name, a in arrays.items():
        a = a if isinstance(a, np.ndarray) else 0.4 * rng.normal(size=a)
        a = a.astype(np.float32) if a.dtype.kind == "f" else a.astype(np.int64)
        made.graph.initializer.append(onnx.numpy_helper.from_array(a, name))
    return made


READ = {
    # as PyTorch writes `x.view(x.size(0), -1)` behind convolutions
    "conv": ("1, 1, 8, 6", """
        a = Sub(x, mean)  b = Div(a, std)
        c = Conv<strides = [2, 1], pads = [1, 0, 1, 2]>(b, k, kb)
        d = BatchNormalization<epsilon = 0.001>(c, g, be, m, v)  e = Relu(d)
        f = Conv<group = 2>(e, k2)  h = Add(f, k2b)  i = LeakyRelu<alpha = 0.2>(h)
        j = MaxPool<kernel_shape = [2, 2], strides = [1, 2]>(i)
        shape = Shape(j)  n = Gather<axis = 0>(shape, zero)  n1 = Unsqueeze(n, zeros)
        sizes = Concat<axis = 0>(n1, rest)  o = Reshape(j, sizes)  p = MatMul(o, w)
        q = Add(p, b1)  r = Sigmoid(q)  s = Mul(r, scale)
        y = Gemm<transB = 1, alpha = 0.5>(s, w2, b2)""", {
        "mean": np.array([[[[0.13]]]]), "std": np.array(0.3), "zero": np.array(0),
        "zeros": np.array([0]), "rest": np.array([-1]), "k": (4, 1, 3, 3), "kb": (4,),
        "g": (4,), "be": (4,), "m": (4,), "v": np.arange(1.0, 5), "k2": (6, 2, 2, 2),
        "k2b": (6, 1, 1), "w": (24, 5), "b1": (5,), "scale": (1, 5), "w2": (3, 5),
        "b2": (3,),
    }),
    # as TensorFlow writes it, for a column of pixels
    "column": ("1, 48, 1", """
        a = MatMul(w, x)  b = Add(a, b1)  c = Relu(b)  d = MatMul(w2, c)
        e = Add(d, b2)  f = Flatten(e)  y = Softmax(f)""", {
        "w": (5, 48), "b1": (1, 5, 1), "w2": (3, 5), "b2": (3, 1),
    }),
    "column without a batch": ("48, 1", """
        a = Gemm<alpha = 0.5, beta = 2.0>(w, x, b1)  b = Tanh(a)
        c = Gemm<transA = 1, transB = 1>(b, w2)  d = Gemm<transB = 1>(w3, c)
        e = Relu(d)  f = Transpose(e)  y = Gemm<transB = 1>(w4, f, b4)""", {
        "w": (5, 48), "b1": (5, 1), "w2": (4, 5), "w3": (6, 4), "w4": (3, 6),
        "b4": (3, 1),
    }),
    "no axis but the pixels'": ("48", """
        a = MatMul(x, w)  b = Add(a, b1)  c = Relu(b)  d = Unsqueeze(c, zero)
        e = Gemm<beta = 0.5>(d, w2, b2)  f = Squeeze(e)  y = Softmax<axis = 0>(f)""", {
        "w": (48, 5), "b1": (5,), "zero": np.array([0]), "w2": (5, 3), "b2": (3,),
    }),
    "channels last": ("N, 8, 6, 1", """
        a = Transpose<perm = [0, 3, 1, 2]>(x)
        b1 = Conv<dilations = [2, 1], pads = [2, 1, 2, 1]>(a, k, kb)
        b = MaxPool<kernel_shape = [2, 2], auto_pad = "SAME_UPPER">(b1)
        c = Conv<group = 4, strides = [2, 2], pads = [1, 1, 1, 1]>(b, k2)
        d = AveragePool<kernel_shape = [3, 2], pads = [1, 1, 1, 0],
            count_include_pad = 1>(c)
        e = AveragePool<kernel_shape = [2, 2], pads = [1, 0, 0, 1]>(d)
        f = Transpose<perm = [0, 2, 3, 1]>(e)  h = Reshape(f, sizes)
        y = MatMul(h, w)""", {
        "k": (4, 1, 3, 3), "kb": (4,), "k2": (8, 1, 3, 3), "sizes": np.array([-1, 96]),
        "w": (96, 3),
    }),
    "constants": ("N, 1, 8, 6", """
        c = Constant<value = float {2.0}>()  d = Identity(x)  e, mask = Dropout(d)
        f = Sub(c, e)  h = Mul(f, row)  i = Add(full, h)  j = Conv(i, k)
        l = Sub(kb, j)  m = Div(l, c)  n = Mul(m, gates)  o = Relu(n)
        p = GlobalMaxPool(o)  q = Squeeze<axes = [2, 3]>(p)  k3 = Transpose(w)
        k4 = Unsqueeze<axes = [0]>(kb2)  r = MatMul(q, k3)  y = Add(r, k4)""", {
        "row": (6,), "full": (1, 8, 6), "k": (4, 1, 3, 3), "kb": (1, 4, 1, 1),
        "gates": (6, 4), "w": (3, 4), "kb2": (3,),
    }, 11),
    "branches": ("N, 1, 8, 6", """
        a = Conv<pads = [1, 1, 1, 1]>(x, k, kb)
        b = BatchNormalization(a, g, be, m, v)  c = Relu(b)
        d = Conv<pads = [1, 1, 1, 1]>(c, k2)  e = Relu(d)  f = Conv(e, k3, kb)
        h = Add(f, c)  i = Relu(h)
        j = Conv<strides = [2, 2]>(i, k4)  l = Conv<strides = [2, 2]>(i, k3)
        l1 = Sigmoid(l)  n = Sum(l1, j)  n1 = Tanh(n)  o = Max(n1, n)
        p = Concat<axis = 1>(o, n)  q = Mul(p, p)  r = GlobalAveragePool(q)
        s = Flatten(r)  t = Gemm(s, w)  u = Tanh(t)  y = Add(u, t)""", {
        "k": (4, 1, 3, 3), "kb": (4,), "g": (4,), "be": (4,), "m": (4,),
        "v": np.arange(1.0, 5), "k2": (4, 4, 3, 3), "k3": (4, 4, 1, 1),
        "k4": (4, 4, 1, 1), "w": (8, 3),
    }),
}  # fmt: skip


def outputs(path, x):
    read = from_onnx(path, x.shape[1:])
    out = read.net.forward(read.params, read.state, x, train=False)[0]
    return np.asarray(out)


@pytest.mark.parametrize("name", READ)
def test_a_network_from_elsewhere_gives_what_onnxruntime_gives(name, tmp_path):
    given, x = model(*READ[name]), images(*IMAGE, count=20)
    onnx.save(given, tmp_path / "net.onnx")
    sizes = [d.dim_value or 1 for d in given.graph.input[0].type.tensor_type.shape.dim]
    want = np.concatenate([ran(given, row.reshape(sizes)).reshape(1, -1) for row in x])
    got = outputs(tmp_path / "net.onnx", x)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dynamo", [False, True])
@pytest.mark.filterwarnings("ignore")
def test_what_pytorch_writes_of_a_color_network_gives_what_pytorch_gives(
    dynamo, tmp_path
):
    torch = pytest.importorskip("torch", reason="the extra `torch` is not installed")
    if dynamo:
        pytest.importorskip("onnxscript", reason="this exporter needs onnxscript")
    nn = torch.nn

    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
            self.second, self.short = nn.Conv2d(4, 5, 3, 2, 1), nn.Conv2d(4, 5, 1, 2)
            self.last = nn.Linear(60, 3)

        def forward(self, x):
            h = torch.relu(self.norm(self.first(x)))
            h = torch.relu(self.second(h) + self.short(h))
            return self.last(torch.flatten(h, 1))

    torch.manual_seed(0)
    net, path = Residual(), tmp_path / "net.onnx"
    net.norm.running_mean.uniform_(-0.3, 0.3)
    net.norm.running_var.uniform_(0.5, 2)
    net.eval()
    torch.onnx.export(net, (torch.zeros(1, 3, 8, 6),), str(path), dynamo=dynamo)
    x = images(8, 6, 3, count=20).astype(np.float32)
    want = net(torch.from_numpy(x.transpose(0, 3, 1, 2))).detach().numpy()
    np.testing.assert_allclose(outputs(path, x), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_what_was_written_is_read_again(name, tmp_path):
    net, x = NETS[name], images(*IMAGE, count=20)
    params, state = drawn(net)
    onnx.save(to_onnx(net, params, state, IMAGE), tmp_path / "net.onnx")
    want, _, _ = net.forward(params, state, x, train=False)
    got = outputs(tmp_path / "net.onnx", x)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


W = {"w": (48, 4), "u": (4, 4)}
REFUSED = {
    "its parameters would be there twice": (
        "1, 48", "a = MatMul(x, w)  b = MatMul(a, u)  c = Concat<axis = 1>(x, a, b)"
        "  y = MatMul(c, v)", W | {"v": (56, 3)},
    ),
    "Erf y: this operation is not known here": ("1, 48", "y = Erf(x)", {}),
    "known here on two values": ("1, 48", "a = MatMul(x, w)  y = Div(a, a)", W),
    "takes inputs .*40": ("1, 40", "y = Relu(x)", {}),
    "axes without a size": ("N, M", "y = Relu(x)", {}),
    "the batch as the first axis": (
        "N, 48", "y = Reshape(x, n)", {"n": np.array([-1])}
    ),
    "the axis that is summed over": ("N, 48", "y = Gemm<transA = 1>(x, v)",
        {"v": (1, 3)}),
    "the batch becomes the last axis": ("N, 48", "y = Gemm<transB = 1>(v, x)",
        {"v": (3, 48)}),
    "the batch to stay first": ("N, 48", "y = Transpose(x)", {}),
    "a constant over a value": ("1, 48", "y = Div(b, x)", {"b": (48,)}),
    "objects cannot be broadcast": ("1, 48", "y = Add(x, b)", {"b": (4, 12)}),
    "ceil_mode": (
        "1, 1, 8, 6", "y = MaxPool<kernel_shape = [2, 2], ceil_mode = 1>(x)", {}
    ),
    "ConstantOfShape c: .* not known here of constants": (
        "1, 48", "c = ConstantOfShape(n)  y = Add(x, c)", {"n": np.array([10**12])}
    ),
    "up to 1e.12 constants": ("1, 48", "c = Add(a, b)  y = Add(x, c)",
        {"a": (10**6, 1), "b": (1, 10**6)}),
    "takes z, which nothing here makes": ("1, 48", "y = Add(x, z)", {}),
    "does not depend on its input": ("1, 48", "y = Identity(b)", {"b": (1, 3)}),
}  # fmt: skip


@pytest.mark.parametrize("words", REFUSED)
def test_what_cannot_be_read_is_told(words, tmp_path):
    onnx.save(model(*REFUSED[words]), tmp_path / "net.onnx")
    with pytest.raises(JaxnnError, match=words):
        from_onnx(tmp_path / "net.onnx", IMAGE)


def test_a_file_that_is_no_graph_or_not_whole_is_told(tmp_path):
    path, given = tmp_path / "net.onnx", model(*READ["column"])
    onnx.save(
        given, path, save_as_external_data=True, location="net.data", size_threshold=0
    )
    assert outputs(path, images(*IMAGE, count=2)).shape == (2, 3)
    (tmp_path / "net.data").unlink()
    for content in (path.read_bytes(), given.SerializeToString()[:-100], b"no graph"):
        path.write_bytes(content)
        with pytest.raises(JaxnnError, match="cannot be read as ONNX"):
            from_onnx(path, IMAGE)
