"""A sample of rules against another library's gradients."""

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
    "einsum": (
        rules.einsum("...ij,jk->...ki"),
        [normal(2, 3, 4), normal(4, 2)],
        lambda a, b: torch.einsum("...ij,jk->...ki", a, b),
    ),
    "reflect": (
        rules.pad([0, (2, 1), (1, 3), 0], "reflect"),
        [IMAGES],
        images(lambda x: F.pad(x, (1, 3, 2, 1), "reflect")),
    ),
    "edge": (
        rules.pad([0, (2, 1), (1, 9), 0], "edge"),
        [IMAGES],
        images(lambda x: F.pad(x, (1, 9, 2, 1), "replicate")),
    ),
    "slice": (
        rules.slice(np.s_[..., 1::2, None, 0]),
        [IMAGES],
        lambda x: x[..., 1::2, None, 0],
    ),
    "concatenate": (
        rules.concatenate(0),
        [X, normal(1, 4)],
        lambda *xs: torch.cat(xs, 0),
    ),
    "nearest": (rules.upsample(3), [IMAGES], resize("nearest")),
    "bilinear": (
        rules.upsample(3, "linear"),
        [IMAGES],
        resize("bilinear", align_corners=False),
    ),
}


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
