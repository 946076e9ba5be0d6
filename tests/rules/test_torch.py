"""Rules against another library's gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn import rules
from tests.rules.common import EXTREME, assert_close, normal, run

torch = pytest.importorskip("torch")
F = torch.nn.functional


def images(function):
    """A function of images (B, C, H, W) on ours, (B, H, W, C)."""
    return lambda x: function(x.movedim(-1, 1)).movedim(1, -1)


def resize(mode, **how):
    return images(lambda x: F.interpolate(x, scale_factor=3, mode=mode, **how))


def conv(function, **settings):
    """A convolution of ours: channels last, the kernel as (K, C, O)."""

    def reference(x, w):
        w = w.movedim((-1, -2), (0, 1)) if "transpose" not in function.__name__ else (
            w.movedim((-2, -1), (0, 1))
        )  # fmt: skip
        return function(x.movedim(-1, 1), w, **settings).movedim(1, -1)

    return reference


def group_norm(groups):
    def reference(x, *params):  # channels are torch's second axis
        return F.group_norm(x.movedim(-1, 1), groups, *params).movedim(1, -1)

    return reference


def attended(q, k, v, mask=None, **settings):
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, **settings)


def normed(*shape):
    return [normal(*shape), *(normal(shape[-1], seed=i) for i in (1, 2))]


def pool(function, *settings, **more):
    return images(lambda x: function(x, *settings, **more))


MASK = normal(2, 3, 5, 5, seed=8) > -0.5
MASK[..., 0] = True
QKV = [normal(2, 3, 5, 4), normal(2, 3, 5, 4, seed=1), normal(2, 3, 5, 6)]
POOLED = normal(2, 7, 6, 3)
X, P = normal(3, 4), np.abs(normal(3, 4)) + 0.1
IMAGES = normal(2, 4, 5, 3)
TIES = np.array([[1.0, 3, 3], [2, 2, 2]])
ZEROS, POWERS = np.zeros(4), np.array([0.0, 0.5, 1, 2])
CASES = {
    "elu": (rules.elu(0.3), [EXTREME], lambda x: F.elu(x, 0.3)),
    "selu": (rules.selu, [EXTREME[EXTREME != 0]], F.selu),
    "gelu": (rules.gelu(), [EXTREME], F.gelu),
    "gelu tanh": (rules.gelu(True), [EXTREME], lambda x: F.gelu(x, approximate="tanh")),
    "swish": (rules.swish(), [EXTREME], F.silu),
    "softplus": (rules.softplus, [X], F.softplus),
    "softmax": (rules.softmax, [X * 100], lambda x: x.softmax(-1)),
    "log_softmax": (rules.log_softmax, [X * 100], lambda x: x.log_softmax(-1)),
    "abs": (rules.abs, [EXTREME], torch.abs),
    "sqrt": (rules.sqrt, [np.array([0, 1e-300, 1, 4])], torch.sqrt),
    "log": (rules.log, [np.array([0, 1e-300, 1, 4])], torch.log),
    "exp": (rules.exp, [np.array([-800.0, -1, 0, 1])], torch.exp),
    "div": (rules.div, [X, normal(4, seed=1)], torch.div),
    "div by 0": (rules.div, [np.array([1.0, 0]), np.zeros(2)], torch.div),
    "power": (rules.power, [P, normal(3, 1, seed=1)], torch.pow),
    "powers of 0": (rules.power, [ZEROS, POWERS], torch.pow),
    "maximum": (rules.maximum, [TIES, TIES[:1]], torch.maximum),
    "minimum": (rules.minimum, [TIES, TIES[:1]], torch.minimum),
    "where": (rules.where, [X > 0, X, normal(4, seed=1)], torch.where),
    "sum": (rules.sum((0, 2)), [IMAGES], lambda x: x.sum((0, 2))),
    "mean": (rules.mean(1, keepdims=True), [X], lambda x: x.mean(1, keepdim=True)),
    "max": (rules.max(1), [TIES], lambda x: x.amax(1)),
    "logsumexp": (rules.logsumexp((0, 1)), [X * 100], lambda x: x.logsumexp((0, 1))),
    "einsum": (rules.einsum("...ij,jk->...ki"), [normal(2, 3, 4), normal(4, 2)],
        lambda a, b: torch.einsum("...ij,jk->...ki", a, b)),
    "reflect": (rules.pad([0, (2, 1), (1, 3), 0], "reflect"), [IMAGES],
        images(lambda x: F.pad(x, (1, 3, 2, 1), "reflect"))),
    "edge": (rules.pad([0, (2, 1), (1, 9), 0], "edge"), [IMAGES],
        images(lambda x: F.pad(x, (1, 9, 2, 1), "replicate"))),
    "slice": (rules.slice(np.s_[..., 1::2, None, 0]), [IMAGES],
        lambda x: x[..., 1::2, None, 0]),
    "concatenate": (
        rules.concatenate(0), [X, normal(1, 4)], lambda *xs: torch.cat(xs, 0)),
    "conv": (rules.conv(2, 1, 2, 2), [normal(2, 9, 8, 4), normal(3, 3, 2, 6)],
        conv(F.conv2d, stride=2, padding=1, dilation=2, groups=2)),
    "depthwise": (rules.conv(1, 1, 1, 4), [normal(2, 5, 6, 4), normal(3, 3, 1, 8)],
        conv(F.conv2d, padding=1, groups=4)),
    "conv of a sequence": (rules.conv(2, "VALID"), [normal(3, 9, 2), normal(4, 2, 5)],
        conv(F.conv1d, stride=2)),
    "transposed": (
        rules.conv_transpose(3, 1, 2), [normal(2, 4, 5, 3), normal(3, 2, 3, 4)],
        conv(F.conv_transpose2d, stride=3, padding=1, dilation=2)),
    "transposed sequence": (
        rules.conv_transpose(2, "VALID"), [normal(2, 6, 3), normal(5, 3, 2)],
        conv(F.conv_transpose1d, stride=2)),
    "max_pool": (
        rules.max_pool((3, 3), 2, 1), [POOLED], pool(F.max_pool2d, (3, 3), 2, 1)),
    "max_pool, rows left": (
        rules.max_pool((2, 2)), [POOLED], pool(F.max_pool2d, (2, 2))),
    "avg_pool": (rules.avg_pool((3, 2), 1, 1), [POOLED],
        pool(F.avg_pool2d, (3, 2), 1, 1, count_include_pad=False)),
    "attention": (rules.attention(), QKV, attended),
    "causal": (rules.attention(True), QKV, lambda *a: attended(*a, is_causal=True)),
    "masked": (rules.attention(), [*QKV, MASK], attended),
    "layer_norm": (
        rules.layer_norm(), normed(2, 3, 5), lambda x, *p: F.layer_norm(x, (5,), *p)),
    "group_norm": (rules.group_norm(2), normed(2, 3, 4, 6), group_norm(2)),
    "instance norm": (rules.group_norm(6), normed(2, 3, 4, 6), group_norm(6)),
    "nearest": (rules.upsample(3), [IMAGES], resize("nearest")),
    "bilinear": (
        rules.upsample(3, "linear"), [IMAGES], resize("bilinear", align_corners=False)),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_rule_equals_torch(name):
    rule, args, function = CASES[name]
    tensors = [torch.tensor(a, requires_grad=a.dtype == float) for a in args]
    y = function(*tensors)
    dy = np.abs(normal(*y.shape, seed=7))
    y.backward(torch.tensor(dy))
    args = [jnp.asarray(a) for a in args]
    got, cotangents = jax.jit(lambda *a: run(rule, a[:-1], a[-1]))(*args, dy)
    assert_close(got, y.detach())
    wants = [t.grad for t in tensors if t.requires_grad]
    for d, want in zip(cotangents, wants, strict=True):
        assert_close(d, want)
