"""Seeded mistakes by formula: a forward, its right gradients, and one of them wrong."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnn.rules import Rule

CONV = (
    "lax.conv_general_dilated(x, w, (1, 1), 'SAME', "
    "dimension_numbers=('NHWC', 'HWIO', 'NHWC'))"
)
VJP = "jax.vjp(lambda x, w: " + CONV + ", x, w)[1](dy)"


KNOWN: dict[str, Any] = {"jnp": jnp, "jax": jax, "lax": lax}


class Formula(NamedTuple):
    """y by its lines, and the gradient of each argument as an expression."""

    args: dict[str, Any]  # name -> shape, or an array
    lines: str
    grads: dict[str, str]


FORMULAS = {
    "affine": Formula(
        {"x": (5, 4), "w": (4, 4), "b": (4,)},
        "y = x @ w + b[None]",
        {"x": "dy @ w.T", "w": "x.T @ dy", "b": "dy.sum(0)"},
    ),
    "square": Formula(
        {"x": (4, 4), "w": (4, 4), "b": (4,)},
        "y = x @ w + b[None]",
        {"x": "dy @ w.T", "w": "x.T @ dy", "b": "dy.sum(0)"},
    ),
    "softmax": Formula(
        {"x": (4, 5)},
        "y = jax.nn.softmax(x, -1)",
        {"x": "y * (dy - (dy * y).sum(-1, keepdims=True))"},
    ),
    "logsoftmax": Formula(
        {"x": (4, 5)},
        "y = jax.nn.log_softmax(x, -1)",
        {"x": "dy - jnp.exp(y) * dy.sum(-1, keepdims=True)"},
    ),
    "layernorm": Formula(
        {"x": (4, 4), "g": (4,), "b": (4,)},
        "m = x.mean(-1, keepdims=True)\nc = x - m\n"
        "v = (c * c).mean(-1, keepdims=True)\n"
        "s = 1 / jnp.sqrt(v + 1e-3)\nh = c * s\ny = h * g[None] + b[None]",
        {
            "x": "(lambda d: s * (d - d.mean(-1, keepdims=True)"
            " - h * (d * h).mean(-1, keepdims=True)))(dy * g[None])",
            "g": "(dy * h).sum(0)",
            "b": "dy.sum(0)",
        },
    ),
    "batchnorm": Formula(
        {"x": (6, 3), "g": (3,), "b": (3,)},
        "m = x.mean(0)\nc = x - m[None]\nv = (c * c).mean(0)\n"
        "s = 1 / jnp.sqrt(v + 1e-3)\n"
        "h = c * s[None]\ny = h * g[None] + b[None]",
        {
            "x": "(g * s)[None] * (dy - dy.mean(0)[None] - h * (dy * h).mean(0)[None])",
            "g": "(dy * h).sum(0)",
            "b": "dy.sum(0)",
        },
    ),
    "tanh": Formula({"x": (4, 3)}, "y = jnp.tanh(x)", {"x": "dy * (1 - y * y)"}),
    "sigmoid": Formula(
        {"x": (4, 3)}, "y = jax.nn.sigmoid(x)", {"x": "dy * y * (1 - y)"}
    ),
    "swish": Formula(
        {"x": (4, 3)},
        "s = jax.nn.sigmoid(x)\ny = x * s",
        {"x": "dy * (s + x * s * (1 - s))"},
    ),
    "relu": Formula(
        {"x": (4, 3)}, "y = jnp.maximum(x, 0.0)", {"x": "jnp.where(x > 0, dy, 0)"}
    ),
    "leaky": Formula(
        {"x": (4, 3)},
        "y = jnp.where(x > 0, x, 0.1 * x)",
        {"x": "jnp.where(x > 0, dy, 0.1 * dy)"},
    ),
    "clip": Formula(
        {"x": (4, 3)},
        "y = jnp.clip(x, -1.0, 1.0)",
        {"x": "jnp.where(abs(x) < 1, dy, 0)"},
    ),
    "cube": Formula({"x": (4, 3)}, "y = x**3", {"x": "3 * x**2 * dy"}),
    "quotient": Formula(
        {"a": (4, 3), "b": np.random.default_rng(3).uniform(1, 2, (4, 3))},
        "y = a / b",
        {"a": "dy / b", "b": "-dy * a / b**2"},
    ),
    "gate": Formula(
        {"a": (4, 3), "b": (4, 3)},
        "s = jax.nn.sigmoid(a)\nt = jnp.tanh(b)\ny = s * t",
        {"a": "dy * t * s * (1 - s)", "b": "dy * s * (1 - t * t)"},
    ),
    "residual": Formula(
        {"x": (4, 3), "w": (3, 3)},
        "t = jnp.tanh(x @ w)\ny = x + t",
        {"x": "dy + (dy * (1 - t * t)) @ w.T", "w": "x.T @ (dy * (1 - t * t))"},
    ),
    "conv": Formula(
        {"x": (2, 5, 5, 2), "w": (3, 3, 2, 3)},
        f"y = {CONV}",
        {"x": f"{VJP}[0]", "w": f"{VJP}[1]"},
    ),
    "stride": Formula(
        {"x": (2, 6, 6)},
        "y = x[:, ::2, ::2]",
        {"x": "jnp.zeros_like(x).at[:, ::2, ::2].set(dy)"},
    ),
    "running": Formula(
        {"x": (3, 6)},
        "y = jnp.cumsum(x, 1)",
        {"x": "jnp.cumsum(dy[:, ::-1], 1)[:, ::-1]"},
    ),
    "recurrent": Formula(
        {"x": (5, 3), "u": (3, 3)},
        "def step(h, row):\n    h = jnp.tanh(h @ u + row)\n    return h, h\n"
        "y = lax.scan(step, jnp.zeros(3, x.dtype), x)[1]",
        {"x": "back(x, u, y, dy)[0]", "u": "back(x, u, y, dy)[1]"},
    ),
    "table": Formula(
        {"t": (5, 3), "i": np.array([0, 2, 2, 4])},
        "y = t[i]",
        {"t": "jnp.zeros_like(t).at[i].add(dy)"},
    ),
    "entropy": Formula(
        {"z": (4, 5), "i": np.array([0, 2, 3, 1])},
        "p = jax.nn.softmax(z)\n"
        "y = -jnp.take_along_axis(jax.nn.log_softmax(z), i[:, None], 1).mean()",
        {"z": "(p - jax.nn.one_hot(i, 5)) * dy / 4"},
    ),
    "mse": Formula(
        {"a": (4, 3), "b": (4, 3)},
        "y = ((a - b) ** 2).mean()",
        {"a": "2 * (a - b) * dy / a.size", "b": "2 * (b - a) * dy / a.size"},
    ),
    "pool": Formula(
        {"x": (2, 4, 4)},
        "t = x.reshape(2, 2, 2, 2, 2)\ny = t.max((2, 4))",
        {
            "x": "jnp.where(t == y[:, :, None, :, None], dy[:, :, None, :, None], 0)"
            ".reshape(x.shape)"
        },
    ),
    "mean": Formula(
        {"x": (4, 5)},
        "y = x.mean(1)",
        {"x": "jnp.broadcast_to(dy[:, None] / 5, x.shape)"},
    ),
    "attention": Formula(
        {"q": (4, 3), "k": (4, 3), "v": (4, 3)},
        "p = jax.nn.softmax(q @ k.T / 2.0, -1)\ny = p @ v",
        {
            "q": "ds(p, dy @ v.T) @ k / 2.0",
            "k": "ds(p, dy @ v.T).T @ q / 2.0",
            "v": "p.T @ dy",
        },
    ),
    "unit": Formula(
        {"x": (4, 3)},
        "n = jnp.sqrt((x * x).sum(-1, keepdims=True) + 1e-2)\ny = x / n",
        {"x": "dy / n - x * (dy * x).sum(-1, keepdims=True) / n**3"},
    ),
    "dropout": Formula(
        {"x": (4, 3), "m": np.array([[1, 0, 1], [1, 1, 0], [0, 1, 1], [1, 1, 1]])},
        "y = jnp.where(m > 0, x / 0.8, 0)",
        {"x": "jnp.where(m > 0, dy / 0.8, 0)"},
    ),
    "outer": Formula(
        {"a": (4,), "b": (4,)},
        "y = a[:, None] * b[None]",
        {"a": "dy @ b", "b": "dy.T @ a"},
    ),
    "scale": Formula(
        {"x": (3, 4, 2), "g": (2,)},
        "y = x * g",
        {"x": "dy * g", "g": "(dy * x).sum((0, 1))"},
    ),
    "column": Formula(
        {"x": (4, 3), "g": (4, 1)},
        "y = x * g",
        {"x": "dy * g", "g": "(dy * x).sum(1, keepdims=True)"},
    ),
    "root": Formula(
        {"x": np.random.default_rng(5).uniform(0.5, 2, (4, 3))},
        "y = jnp.sqrt(x)",
        {"x": "dy / (2 * y)"},
    ),
    "log": Formula(
        {"x": np.random.default_rng(6).uniform(0.5, 2, (4, 3))},
        "y = jnp.log(jnp.sqrt(x))",
        {"x": "dy / (2 * x)"},
    ),
    "lse": Formula(
        {"x": (4, 3)},
        "y = jax.nn.logsumexp(x, 1)",
        {"x": "jax.nn.softmax(x, 1) * dy[:, None]"},
    ),
}


FRESH_FORMULAS = {
    "softplus": Formula(
        {"x": (4, 3)}, "y = jnp.logaddexp(x, 0.0)", {"x": "dy * jax.nn.sigmoid(x)"}
    ),
    "rms": Formula(
        {"x": (5, 4), "g": (4,)},
        "r = 1 / jnp.sqrt((x * x).mean(-1, keepdims=True) + 1e-4)\nh = x * r\n"
        "y = h * g[None]",
        {
            "x": "r * (dy * g[None] - h * (dy * g[None] * h).mean(-1, keepdims=True))",
            "g": "(dy * h).sum(0)",
        },
    ),
    "mlp": Formula(
        {"x": (5, 3), "a": (3, 4), "b": (4, 2)},
        "z = x @ a\nh = jnp.maximum(z, 0.0)\ny = h @ b",
        {
            "x": "jnp.where(z > 0, dy @ b.T, 0) @ a.T",
            "a": "x.T @ jnp.where(z > 0, dy @ b.T, 0)",
            "b": "h.T @ dy",
        },
    ),
    "bilinear": Formula(
        {"x": (5, 3), "m": (3, 3), "z": (5, 3)},
        "y = ((x @ m) * z).sum(1)",
        {
            "x": "(dy[:, None] * z) @ m.T",
            "m": "x.T @ (dy[:, None] * z)",
            "z": "dy[:, None] * (x @ m)",
        },
    ),
    "glu": Formula(
        {"x": (4, 6)},
        "a = x[:, :3]\nb = x[:, 3:]\ns = jax.nn.sigmoid(b)\ny = a * s",
        {"x": "jnp.concatenate([dy * s, dy * a * s * (1 - s)], 1)"},
    ),
    "average": Formula(
        {"x": (3, 6)},
        "y = (x[:, :-1] + x[:, 1:]) / 2",
        {"x": "(jnp.pad(dy, ((0, 0), (0, 1))) + jnp.pad(dy, ((0, 0), (1, 0)))) / 2"},
    ),
    "logistic": Formula(
        {"z": (6,), "t": np.array([0, 1, 1, 0, 1, 0])},
        "y = jnp.where(t == 1, jnp.logaddexp(0.0, -z), jnp.logaddexp(0.0, z)).mean()",
        {"z": "(jax.nn.sigmoid(z) - t) * dy / 6"},
    ),
    "decay": Formula(
        {"x": (6, 3), "a": (3,)},
        "def step(h, row):\n    h = a * h + row\n    return h, h\n"
        "y = lax.scan(step, jnp.zeros(3, x.dtype), x)[1]",
        {"x": "decay(x, a, y, dy)[0]", "a": "decay(x, a, y, dy)[1]"},
    ),
    "cosine": Formula(
        {"a": (4, 3), "b": (4, 3)},
        "n = jnp.sqrt((a * a).sum(1))\nm = jnp.sqrt((b * b).sum(1))\n"
        "d = (a * b).sum(1)\ny = d / (n * m)",
        {
            "a": "(dy / (n * m))[:, None] * b - (dy * d / (n**3 * m))[:, None] * a",
            "b": "(dy / (n * m))[:, None] * a - (dy * d / (m**3 * n))[:, None] * b",
        },
    ),
    "variance": Formula(
        {"x": (6, 3)},
        "c = x - x.mean(0)[None]\ny = (c * c).sum(0) / 5",
        {"x": "2 * c * dy[None] / 5"},
    ),
    "spread": Formula(
        {"x": (4, 5)},
        "y = x.max(1) - x.min(1)",
        {
            "x": "jnp.where(x == x.max(1)[:, None], dy[:, None], 0) - "
            "jnp.where(x == x.min(1)[:, None], dy[:, None], 0)"
        },
    ),
    "upsample": Formula(
        {"x": (2, 3, 3)},
        "y = jnp.repeat(jnp.repeat(x, 2, 1), 2, 2)",
        {"x": "dy.reshape(2, 3, 2, 3, 2).sum((2, 4))"},
    ),
}


class Mistake(NamedTuple):
    """A formula with one gradient replaced, and words the cause has to hold."""

    title: str
    formula: str
    argument: str
    wrong: str
    words: str  # a regular expression; "" where no cause is known


M = Mistake
MISTAKES = [
    M("sign of dw", "affine", "w", "-x.T @ dy", "sign"),
    M("a percent too large", "affine", "x", "1.01 * dy @ w.T", "factor 1.01"),
    M("dw without the transpose", "square", "w", "x @ dy", "transpose"),
    M("dx without the transpose", "affine", "x", "dy @ w", "transpose"),
    M("db over the wrong axis", "square", "b", "dy.sum(1)", "axis"),
    M("db a mean", "affine", "b", "dy.mean(0)", "mean"),
    M("db of the first row", "affine", "b", "dy[0]", "row 0|first"),
    M("db not summed", "affine", "b", "dy", "sum"),
    M("db over the wrong axis, another shape", "affine", "b", "dy.sum(1)", "axis"),
    M("db keeps dims", "affine", "b", "dy.sum(0, keepdims=True)", "keepdims"),
    M("dw ignores dy", "affine", "w", "x.T @ jnp.ones_like(dy)", "dy is ignored"),
    M("a constant", "affine", "b", "jnp.arange(1.0, 5.0).astype(dy.dtype)", "constant"),
    M("zero", "affine", "b", "0 * b", "zero"),
    M("dw of another batch", "affine", "w", "jnp.roll(x, 1, 0).T @ dy", "stale"),
    M("dw transposed", "affine", "w", "(x.T @ dy).T", "transpose"),
    M("weight decay left in", "affine", "w", "x.T @ dy + 0.1 * w", "multiple of w"),
    M(
        "float32 inside",
        "affine",
        "w",
        "(x.astype('float32').T @ dy).astype(x.dtype)",
        "float32",
    ),
    M("softmax: diagonal only", "softmax", "x", "dy * y * (1 - y)", "diagonal"),
    M("softmax: as if elementwise", "softmax", "x", "dy * y", "left out|missing"),
    M(
        "softmax: sum over the batch",
        "softmax",
        "x",
        "y * (dy - (dy * y).sum(0, keepdims=True))",
        "",
    ),
    M("log-softmax: sum of dy left out", "logsoftmax", "x", "dy - jnp.exp(y)", ""),
    M("log-softmax: dy alone", "logsoftmax", "x", "dy", "dy itself|left out"),
    M(
        "layer norm: mean path",
        "layernorm",
        "x",
        "(lambda d: s * (d - h * (d * h).mean(-1, keepdims=True)))(dy * g[None])",
        "left out",
    ),
    M(
        "layer norm: variance path",
        "layernorm",
        "x",
        "(lambda d: s * (d - d.mean(-1, keepdims=True)))(dy * g[None])",
        "left out",
    ),
    M(
        "layer norm: gamma",
        "layernorm",
        "x",
        "(lambda d: s * (d - d.mean(-1, keepdims=True)"
        " - h * (d * h).mean(-1, keepdims=True)))(dy)",
        "factor of .* left out",
    ),
    M("layer norm: dgamma over features", "layernorm", "g", "(dy * h).sum(1)", "axis"),
    M(
        "layer norm: dgamma with x",
        "layernorm",
        "g",
        "(dy * x).sum(0)",
        "x stands in the place",
    ),
    M("layer norm: swapped", "layernorm", "g", "dy.sum(0)", "db"),
    M(
        "batch norm: mean path",
        "batchnorm",
        "x",
        "(g * s)[None] * (dy - h * (dy * h).mean(0)[None])",
        "left out",
    ),
    M(
        "batch norm: variance path",
        "batchnorm",
        "x",
        "(g * s)[None] * (dy - dy.mean(0)[None])",
        "left out",
    ),
    M(
        "batch norm: both paths",
        "batchnorm",
        "x",
        "(g * s)[None] * dy",
        "left out, and so",
    ),
    M(
        "batch norm: scale",
        "batchnorm",
        "x",
        "g[None] * (dy - dy.mean(0)[None] - h * (dy * h).mean(0)[None])",
        "left out|channel",
    ),
    M(
        "batch norm: eps forgotten",
        "batchnorm",
        "x",
        "(g / jnp.sqrt(v))[None] * (dy - dy.mean(0)[None] - h * (dy * "
        "h).mean(0)[None])",
        "0.001|channel",
    ),
    M("batch norm: dbeta a mean", "batchnorm", "b", "dy.mean(0)", "mean"),
    M(
        "batch norm: h not normalized in dgamma",
        "batchnorm",
        "g",
        "(dy * c).sum(0)",
        "left out|factor",
    ),
    M("tanh: from x", "tanh", "x", "dy * (1 - x * x)", "x\\^2"),
    M("tanh: 1 - y", "tanh", "x", "dy * (1 - y)", "1 - y"),
    M("tanh: dy", "tanh", "x", "dy", "derivative"),
    M("tanh: divided", "tanh", "x", "dy / (1 - y * y)", "divided"),
    M("tanh: dy forgotten", "tanh", "x", "1 - y * y", "dy is ignored"),
    M("sigmoid: from x", "sigmoid", "x", "dy * x * (1 - x)", "x \\(1 - x\\)"),
    M("sigmoid: y", "sigmoid", "x", "dy * y", "place of its derivative"),
    M("swish: second term", "swish", "x", "dy * s", "left out"),
    M("swish: first term", "swish", "x", "dy * x * s * (1 - s)", "left out"),
    M("relu: mask inverted", "relu", "x", "jnp.where(x > 0, 0, dy)", "wrong way round"),
    M("relu: no mask", "relu", "x", "dy", "dy itself|mask"),
    M("leaky: slope", "leaky", "x", "jnp.where(x > 0, dy, 0)", "zero|left out"),
    M("clip: passes outside", "clip", "x", "dy", "dy itself|mask"),
    M("clip: passes above", "clip", "x", "jnp.where(x > -1, dy, 0)", "mask"),
    M("cube: factor", "cube", "x", "x**2 * dy", "factor"),
    M("cube: exponent", "cube", "x", "3 * x**3 * dy", "exponent"),
    M("cube: exponent one too low", "cube", "x", "3 * x * dy", "lowered by two"),
    M("quotient: sign", "quotient", "b", "dy * a / b**2", "sign"),
    M("quotient: square", "quotient", "b", "-dy * a / b", "squared"),
    M("quotient: multiplied", "quotient", "a", "dy * b", "multiplied"),
    M("quotient: swapped", "quotient", "a", "-dy * a / b**2", "db"),
    M("gate: other factor", "gate", "a", "dy * s * (1 - s)", "left out"),
    M("gate: derivative", "gate", "b", "dy * s", "derivative"),
    M("gate: exchanged", "gate", "a", "dy * s * (1 - t * t)", "db"),
    M("residual: skip", "residual", "x", "(dy * (1 - t * t)) @ w.T", "skip|left out"),
    M("residual: branch", "residual", "x", "dy", "dy itself|left out"),
    M("residual: chain", "residual", "x", "dy + dy @ w.T", "derivative of tanh"),
    M("residual: chain in dw", "residual", "w", "x.T @ dy", "derivative of tanh"),
    M(
        "conv: kernel of dx",
        "conv",
        "x",
        VJP.replace("x, w)[1]", "x, w[::-1, ::-1])[1]") + "[0]",
        "flipped",
    ),
    M("conv: kernel of dw", "conv", "w", VJP + "[1][::-1, ::-1]", "flipped|reversed"),
    M("conv: padding", "conv", "x", f"jnp.roll({VJP}[0], 1, 1)", "shifted"),
    M(
        "stride ignored",
        "stride",
        "x",
        "jnp.repeat(jnp.repeat(dy, 2, 1), 2, 2)",
        "stride",
    ),
    M(
        "stride: phase",
        "stride",
        "x",
        "jnp.zeros_like(x).at[:, 1::2, ::2].set(dy)",
        "shifted",
    ),
    M("running sum: forwards", "running", "x", "jnp.cumsum(dy, 1)", "forwards"),
    M(
        "running sum: off by one",
        "running",
        "x",
        "jnp.cumsum(dy[:, ::-1], 1)[:, ::-1] - dy",
        "dy is missing|off by one|shifted",
    ),
    M("recurrent: no time", "recurrent", "u", "back(x, u, y, dy, 0.0)[1]", "left out"),
    M(
        "recurrent: derivative",
        "recurrent",
        "x",
        "back(x, u, y, dy, 1.0, 0)[0]",
        "derivative of tanh",
    ),
    M(
        "recurrent: state off by one",
        "recurrent",
        "u",
        "back(x, u, y, dy, 1.0, 1, 1)[1]",
        "",
    ),
    M("recurrent: transpose", "recurrent", "x", "back(x, u.T, y, dy)[0]", "transpose"),
    M(
        "table: assigned, not added",
        "table",
        "t",
        "jnp.zeros_like(t).at[i].set(dy)",
        "assigned|added",
    ),
    M(
        "table: off by one",
        "table",
        "t",
        "jnp.zeros_like(t).at[(i + 1) % 5].add(dy)",
        "off by one|shifted",
    ),
    M(
        "label off by one",
        "entropy",
        "z",
        "(p - jax.nn.one_hot((i + 1) % 5, 5)) * dy / 4",
        "off by one",
    ),
    M("entropy: not a mean", "entropy", "z", "(p - jax.nn.one_hot(i, 5)) * dy", "sum"),
    M("entropy: dy", "entropy", "z", "(p - jax.nn.one_hot(i, 5)) / 4", "dy is ignored"),
    M("entropy: labels left out", "entropy", "z", "p * dy / 4", "left out"),
    M("mse: 2", "mse", "a", "(a - b) * dy / a.size", "factor 0.5|2 is missing"),
    M("mse: sum", "mse", "b", "2 * (b - a) * dy", "sum"),
    M("mse: sign", "mse", "b", "2 * (a - b) * dy / a.size", "sign|da"),
    M(
        "pool: to all",
        "pool",
        "x",
        "jnp.broadcast_to(dy[:, :, None, :, None], t.shape).reshape(x.shape)",
        "largest alone",
    ),
    M(
        "pool: neighbor",
        "pool",
        "x",
        "jnp.roll(jnp.where(t == y[:, :, None, :, None], dy[:, :, None, :, None], 0)"
        ".reshape(x.shape), 1, 2)",
        "shifted",
    ),
    M("mean: a sum", "mean", "x", "jnp.broadcast_to(dy[:, None], x.shape)", "mean"),
    M("attention: scale", "attention", "q", "ds(p, dy @ v.T) @ k", "factor 2"),
    M(
        "attention: softmax",
        "attention",
        "k",
        "(p * (dy @ v.T)).T @ q / 2.0",
        "left out",
    ),
    M("attention: dv", "attention", "v", "p @ dy", "transpose"),
    M("attention: q and k", "attention", "q", "ds(p, dy @ v.T) @ q / 2.0", ""),
    M("unit: norm path", "unit", "x", "dy / n", "left out"),
    M(
        "unit: power",
        "unit",
        "x",
        "dy / n - x * (dy * x).sum(-1, keepdims=True) / n**2",
        "power",
    ),
    M("dropout: mask", "dropout", "x", "dy / 0.8", "mask"),
    M("dropout: scale", "dropout", "x", "jnp.where(m > 0, dy, 0)", "0.8"),
    M("outer: exchanged", "outer", "a", "dy @ a", "exchanged"),
    M("outer: axis", "outer", "a", "dy.T @ b", "transposed|axis"),
    M("scale: an axis", "scale", "g", "(dy * x).sum(0)", "sum"),
    M("scale: dx", "scale", "x", "dy", "dy itself|left out"),
    M("column: keepdims", "column", "g", "(dy * x).sum(1)", "keepdims|shape"),
    M("column: mean", "column", "g", "(dy * x).mean(1, keepdims=True)", "mean"),
    M("root: 1/2", "root", "x", "dy / y", "factor 2|1/2"),
    M("root: multiplied", "root", "x", "dy * y / 2", "power"),
    M("log: not 1/2", "log", "x", "dy / x", "factor 2"),
    M("lse: dy", "lse", "x", "jax.nn.softmax(x, 1)", "dy is ignored"),
    M("lse: wrong axis", "lse", "x", "jax.nn.softmax(x, 0) * dy[:, None]", ""),
]

# written after the causes were, and not looked at before
FRESH = [
    M("softplus: x, h1", "softplus", "x", "dy * jax.nn.softplus(x)", ""),
    M("softplus: x, h2", "softplus", "x", "dy * jax.nn.sigmoid(-x)", "1 minus"),
    M(
        "rms: x, h3",
        "rms",
        "x",
        "r * (dy * g[None] - h * (dy * h).mean(-1, keepdims=True))",
        "",
    ),
    M("rms: x, h4", "rms", "x", "r * dy * g[None]", "left out"),
    M("rms: g, h5", "rms", "g", "(dy * x).sum(0)", "x|left out"),
    M("mlp: a, h6", "mlp", "a", "x.T @ (dy @ b.T)", "mask"),
    M("mlp: x, h7", "mlp", "x", "jnp.where(z > 0, 0, dy @ b.T) @ a.T", "wrong way"),
    M("mlp: b, h8", "mlp", "b", "z.T @ dy", "z|maximum|place"),
    M(
        "bilinear: m, h9",
        "bilinear",
        "m",
        "z.T @ (dy[:, None] * x)",
        "transpose|exchanged",
    ),
    M("bilinear: x, h10", "bilinear", "x", "(dy[:, None] * z) @ m", "transpose"),
    M("bilinear: z, h11", "bilinear", "z", "dy[:, None] * x", "x stands in"),
    M(
        "glu: x, h12",
        "glu",
        "x",
        "jnp.concatenate([dy * a * s * (1 - s), dy * s], 1)",
        "exchanged|parts",
    ),
    M(
        "glu: x, h13",
        "glu",
        "x",
        "jnp.concatenate([dy * s, dy * a * s], 1)",
        "derivative|left out",
    ),
    M(
        "average: x, h14",
        "average",
        "x",
        "jnp.pad(dy, ((0, 0), (0, 1))) / 2",
        "left out",
    ),
    M(
        "average: x, h15",
        "average",
        "x",
        "(jnp.pad(dy, ((0, 0), (0, 1))) - jnp.pad(dy, ((0, 0), (1, 0)))) / 2",
        "sign",
    ),
    M("logistic: z, h16", "logistic", "z", "(jax.nn.sigmoid(z) - t) * dy", "sum|mean"),
    M(
        "logistic: z, h17",
        "logistic",
        "z",
        "(jax.nn.sigmoid(z) + t) * dy / 6",
        "multiple of t",
    ),
    M("logistic: z, h18", "logistic", "z", "(t - jax.nn.sigmoid(z)) * dy / 6", "sign"),
    M("decay: a, h19", "decay", "a", "decay(x, a, y, dy, 1)[1]", "left out|time"),
    M("decay: x, h20", "decay", "x", "decay(x, 1 + 0 * a, y, dy)[0]", "left out"),
    M("cosine: a, h21", "cosine", "a", "(dy / (n * m))[:, None] * b", "left out"),
    M(
        "cosine: b, h22",
        "cosine",
        "b",
        "(dy / (n * m))[:, None] * a + (dy * d / (m**3 * n))[:, None] * b",
        "sign",
    ),
    M("variance: x, h23", "variance", "x", "2 * c * dy[None] / 6", "factor"),
    M("variance: x, h24", "variance", "x", "c * dy[None] / 5", "factor|2"),
    M(
        "spread: x, h25",
        "spread",
        "x",
        "jnp.where(x == x.max(1)[:, None], dy[:, None], 0)",
        "left out",
    ),
    M(
        "spread: x, h26",
        "spread",
        "x",
        "jnp.where(x == x.max(1)[:, None], dy[:, None], 0) + jnp.where(x == "
        "x.min(1)[:, None], dy[:, None], 0)",
        "sign",
    ),
    M("upsample: x, h27", "upsample", "x", "dy[:, ::2, ::2]", ""),
    M(
        "upsample: x, h28",
        "upsample",
        "x",
        "dy.reshape(2, 3, 2, 3, 2).mean((2, 4))",
        "mean|factor",
    ),
]


def decay(x, a, y, dy, cut=False):
    """Gradients (dx, da) of the decaying sum; without the path through time."""
    dh, dx, da = 0 * dy[0], [], 0 * a
    for t in reversed(range(len(x))):
        g = dy[t] if cut else dy[t] + dh
        da = da + g * (y[t - 1] if t else 0 * y[0])
        dh = g * a
        dx.insert(0, g)
    return jnp.stack(dx), da


def back(x, u, y, dy, through=1.0, slope=1, late=0):
    """Gradients (dx, du) of the recurrent formula; the rest are its mistakes."""
    dh, dx, du = 0 * dy[0], [], 0 * u
    for t in reversed(range(len(x))):
        g = dy[t] + through * dh
        dz = g * (1 - y[t] ** 2) if slope else g
        before = y[t - 1 + late] if t + late else 0 * y[0]
        du = du + before[:, None] * dz[None]
        dh = dz @ u.T
        dx.insert(0, dz)
    return jnp.stack(dx), du


def ds(p, dp):
    """The gradient behind a softmax."""
    return p * (dp - (dp * p).sum(-1, keepdims=True))


def rule(title: str, formula: Formula, argument: str = "", wrong: str = "") -> Rule:
    """The formula as a rule, one gradient replaced."""
    code = compile(formula.lines, f"<{title}>", "exec")
    grads = formula.grads | ({argument: wrong} if argument else {})
    names = list(formula.args)
    known = KNOWN | {"back": back, "ds": ds, "decay": decay}

    def run(args):
        scope = known | dict(zip(names, args, strict=True))
        exec(code, scope)
        return scope

    def bwd(args, dy):
        scope = run(args) | {"dy": dy}
        return tuple(eval(grads[n], scope) if n in grads else None for n in names)

    return Rule(title, lambda *args: (run(args)["y"], args), bwd)


def values(formula: Formula, seed: int = 0) -> dict[str, np.ndarray]:
    """Its arguments, drawn where a shape is given."""
    draw = np.random.default_rng(seed)
    return {
        n: draw.standard_normal(a) if isinstance(a, tuple) else a
        for n, a in formula.args.items()
    }
