"""Seeded mistakes by formula: a forward, its right gradients, and one of them wrong.

A formula is its name and the shapes of its arguments, the lines that make y, and the
gradient of each argument. A mistake, behind "?", is a title, an argument, its wrong
gradient, and a regular expression that the cause has to hold; none where no cause is
known.
"""

import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnn.rules import Rule

ARRAYS = {  # of the arguments that are not drawn from N(0, 1)
    ("quotient", "b"): np.random.default_rng(3).uniform(1, 2, (4, 3)),
    ("table", "i"): np.array([0, 2, 2, 4]),
    ("entropy", "i"): np.array([0, 2, 3, 1]),
    ("dropout", "m"): np.array([[1, 0, 1], [1, 1, 0], [0, 1, 1], [1, 1, 1]]),
    ("root", "x"): np.random.default_rng(5).uniform(0.5, 2, (4, 3)),
    ("log", "x"): np.random.default_rng(6).uniform(0.5, 2, (4, 3)),
    ("logistic", "t"): np.array([0, 1, 1, 0, 1, 0]),
}

KNOWN = r"""
affine: x 5,4  w 4,4  b 4
  y = x @ w + b[None]
  dx = dy @ w.T
  dw = x.T @ dy
  db = dy.sum(0)
  ? sign of dw; w; -x.T @ dy; sign
  ? a percent too large; x; 1.01 * dy @ w.T; factor 1.01
  ? dx without the transpose; x; dy @ w; transpose
  ? db a mean; b; dy.mean(0); mean
  ? db of the first row; b; dy[0]; row 0|first
  ? db not summed; b; dy; sum
  ? db over the wrong axis, another shape; b; dy.sum(1); axis
  ? db keeps dims; b; dy.sum(0, keepdims=True); keepdims
  ? dw ignores dy; w; x.T @ jnp.ones_like(dy); dy is ignored
  ? a constant; b; jnp.arange(1.0, 5.0).astype(dy.dtype); constant
  ? zero; b; 0 * b; zero
  ? dw of another batch; w; jnp.roll(x, 1, 0).T @ dy; stale
  ? dw transposed; w; (x.T @ dy).T; transpose
  ? weight decay left in; w; x.T @ dy + 0.1 * w; multiple of w
  ? float32 inside; w; (x.astype('float32').T @ dy).astype(x.dtype); float32
square: x 4,4  w 4,4  b 4
  y = x @ w + b[None]
  dx = dy @ w.T
  dw = x.T @ dy
  db = dy.sum(0)
  ? dw without the transpose; w; x @ dy; transpose
  ? db over the wrong axis; b; dy.sum(1); axis
softmax: x 4,5
  y = jax.nn.softmax(x, -1)
  dx = y * (dy - (dy * y).sum(-1, keepdims=True))
  ? softmax: diagonal only; x; dy * y * (1 - y); diagonal
  ? softmax: as if elementwise; x; dy * y; left out|missing
  ? softmax: sum over the batch; x; y * (dy - (dy * y).sum(0, keepdims=True));
    axis 0 of .4, 5., not 1
logsoftmax: x 4,5
  y = jax.nn.log_softmax(x, -1)
  dx = dy - jnp.exp(y) * dy.sum(-1, keepdims=True)
  ? log-softmax: sum of dy left out; x; dy - jnp.exp(y); place of the sum of dy
  ? log-softmax: dy alone; x; dy; dy itself|left out
layernorm: x 4,4  g 4  b 4
  m = x.mean(-1, keepdims=True)
  c = x - m
  v = (c * c).mean(-1, keepdims=True)
  s = 1 / jnp.sqrt(v + 1e-3)
  h = c * s
  y = h * g[None] + b[None]
  dx =
    (lambda d: s * (d - d.mean(-1, keepdims=True) - h * (d * h).mean(-1,
    keepdims=True)))(dy * g[None])
  dg = (dy * h).sum(0)
  db = dy.sum(0)
  ? layer norm: mean path; x;
    (lambda d: s * (d - h * (d * h).mean(-1, keepdims=True)))(dy * g[None]); left out
  ? layer norm: variance path; x;
    (lambda d: s * (d - d.mean(-1, keepdims=True)))(dy * g[None]); left out
  ? layer norm: gamma; x;
    (lambda d: s * (d - d.mean(-1, keepdims=True) - h * (d * h).mean(-1,
    keepdims=True)))(dy); factor of .* left out
  ? layer norm: dgamma over features; g; (dy * h).sum(1); axis
  ? layer norm: dgamma with x; g; (dy * x).sum(0); x stands in the place
  ? layer norm: swapped; g; dy.sum(0); db
batchnorm: x 6,3  g 3  b 3
  m = x.mean(0)
  c = x - m[None]
  v = (c * c).mean(0)
  s = 1 / jnp.sqrt(v + 1e-3)
  h = c * s[None]
  y = h * g[None] + b[None]
  dx = (g * s)[None] * (dy - dy.mean(0)[None] - h * (dy * h).mean(0)[None])
  dg = (dy * h).sum(0)
  db = dy.sum(0)
  ? batch norm: mean path; x;
    (g * s)[None] * (dy - h * (dy * h).mean(0)[None]); left out
  ? batch norm: variance path; x; (g * s)[None] * (dy - dy.mean(0)[None]); left out
  ? batch norm: both paths; x; (g * s)[None] * dy; left out, and so
  ? batch norm: scale; x;
    g[None] * (dy - dy.mean(0)[None] - h * (dy * h).mean(0)[None]); left out|channel
  ? batch norm: eps forgotten; x;
    (g / jnp.sqrt(v))[None] * (dy - dy.mean(0)[None] - h * (dy * h).mean(0)[None]);
    0.001|channel
  ? batch norm: dbeta a mean; b; dy.mean(0); mean
  ? batch norm: h not normalized in dgamma; g; (dy * c).sum(0); left out|factor
tanh: x 4,3
  y = jnp.tanh(x)
  dx = dy * (1 - y * y)
  ? tanh: from x; x; dy * (1 - x * x); x\^2
  ? tanh: 1 - y; x; dy * (1 - y); 1 - y
  ? tanh: dy; x; dy; derivative
  ? tanh: divided; x; dy / (1 - y * y); divided
  ? tanh: dy forgotten; x; 1 - y * y; dy is ignored
sigmoid: x 4,3
  y = jax.nn.sigmoid(x)
  dx = dy * y * (1 - y)
  ? sigmoid: from x; x; dy * x * (1 - x); x \(1 - x\)
  ? sigmoid: y; x; dy * y; place of its derivative
swish: x 4,3
  s = jax.nn.sigmoid(x)
  y = x * s
  dx = dy * (s + x * s * (1 - s))
  ? swish: second term; x; dy * s; left out
  ? swish: first term; x; dy * x * s * (1 - s); left out
relu: x 4,3
  y = jnp.maximum(x, 0.0)
  dx = jnp.where(x > 0, dy, 0)
  ? relu: mask inverted; x; jnp.where(x > 0, 0, dy); wrong way round
  ? relu: no mask; x; dy; dy itself|mask
leaky: x 4,3
  y = jnp.where(x > 0, x, 0.1 * x)
  dx = jnp.where(x > 0, dy, 0.1 * dy)
  ? leaky: slope; x; jnp.where(x > 0, dy, 0); zero|left out
clip: x 4,3
  y = jnp.clip(x, -1.0, 1.0)
  dx = jnp.where(abs(x) < 1, dy, 0)
  ? clip: passes outside; x; dy; dy itself|mask
  ? clip: passes above; x; jnp.where(x > -1, dy, 0); mask
cube: x 4,3
  y = x**3
  dx = 3 * x**2 * dy
  ? cube: factor; x; x**2 * dy; factor
  ? cube: exponent; x; 3 * x**3 * dy; exponent
  ? cube: exponent one too low; x; 3 * x * dy; lowered by two
quotient: a 4,3  b @
  y = a / b
  da = dy / b
  db = -dy * a / b**2
  ? quotient: sign; b; dy * a / b**2; sign
  ? quotient: square; b; -dy * a / b; squared
  ? quotient: multiplied; a; dy * b; multiplied
  ? quotient: swapped; a; -dy * a / b**2; db
gate: a 4,3  b 4,3
  s = jax.nn.sigmoid(a)
  t = jnp.tanh(b)
  y = s * t
  da = dy * t * s * (1 - s)
  db = dy * s * (1 - t * t)
  ? gate: other factor; a; dy * s * (1 - s); left out
  ? gate: derivative; b; dy * s; derivative
  ? gate: exchanged; a; dy * s * (1 - t * t); db
residual: x 4,3  w 3,3
  t = jnp.tanh(x @ w)
  y = x + t
  dx = dy + (dy * (1 - t * t)) @ w.T
  dw = x.T @ (dy * (1 - t * t))
  ? residual: skip; x; (dy * (1 - t * t)) @ w.T; skip|left out
  ? residual: branch; x; dy; dy itself|left out
  ? residual: chain; x; dy + dy @ w.T; derivative of tanh
  ? residual: chain in dw; w; x.T @ dy; derivative of tanh
conv: x 2,5,5,2  w 3,3,2,3
  y = conv(x, w)
  dx = conv_back(x, w, dy)[0]
  dw = conv_back(x, w, dy)[1]
  ? conv: kernel of dx; x; conv_back(x, w[::-1, ::-1], dy)[0]; flipped
  ? conv: kernel of dw; w; conv_back(x, w, dy)[1][::-1, ::-1]; flipped|reversed
  ? conv: padding; x; jnp.roll(conv_back(x, w, dy)[0], 1, 1); shifted
stride: x 2,6,6
  y = x[:, ::2, ::2]
  dx = jnp.zeros_like(x).at[:, ::2, ::2].set(dy)
  ? stride ignored; x; jnp.repeat(jnp.repeat(dy, 2, 1), 2, 2); stride
  ? stride: phase; x; jnp.zeros_like(x).at[:, 1::2, ::2].set(dy); shifted
running: x 3,6
  y = jnp.cumsum(x, 1)
  dx = jnp.cumsum(dy[:, ::-1], 1)[:, ::-1]
  ? running sum: forwards; x; jnp.cumsum(dy, 1); forwards
  ? running sum: off by one; x;
    jnp.cumsum(dy[:, ::-1], 1)[:, ::-1] - dy; dy is missing|off by one|shifted
recurrent: x 5,3  u 3,3
  def step(h, row):
      h = jnp.tanh(h @ u + row)
      return h, h
  y = lax.scan(step, jnp.zeros(3, x.dtype), x)[1]
  dx = back(x, u, y, dy)[0]
  du = back(x, u, y, dy)[1]
  ? recurrent: no time; u; back(x, u, y, dy, 0.0)[1]; left out
  ? recurrent: derivative; x; back(x, u, y, dy, 1.0, 0)[0]; derivative of tanh
  ? recurrent: state off by one; u; back(x, u, y, dy, 1.0, 1, 1)[1];
    too late by one along axis 0
  ? recurrent: transpose; x; back(x, u.T, y, dy)[0]; transpose
table: t 5,3  i @
  y = t[i]
  dt = jnp.zeros_like(t).at[i].add(dy)
  ? table: assigned, not added; t; jnp.zeros_like(t).at[i].set(dy); assigned|added
  ? table: off by one; t; jnp.zeros_like(t).at[(i + 1) % 5].add(dy); off by one|shifted
entropy: z 4,5  i @
  p = jax.nn.softmax(z)
  y = -jnp.take_along_axis(jax.nn.log_softmax(z), i[:, None], 1).mean()
  dz = (p - jax.nn.one_hot(i, 5)) * dy / 4
  ? label off by one; z; (p - jax.nn.one_hot((i + 1) % 5, 5)) * dy / 4; off by one
  ? entropy: not a mean; z; (p - jax.nn.one_hot(i, 5)) * dy; sum
  ? entropy: dy; z; (p - jax.nn.one_hot(i, 5)) / 4; dy is ignored
  ? entropy: labels left out; z; p * dy / 4; left out
mse: a 4,3  b 4,3
  y = ((a - b) ** 2).mean()
  da = 2 * (a - b) * dy / a.size
  db = 2 * (b - a) * dy / a.size
  ? mse: 2; a; (a - b) * dy / a.size; factor 0.5|2 is missing
  ? mse: sum; b; 2 * (b - a) * dy; sum
  ? mse: sign; b; 2 * (a - b) * dy / a.size; sign|da
pool: x 2,4,4
  t = x.reshape(2, 2, 2, 2, 2)
  y = t.max((2, 4))
  dx =
    jnp.where(t == y[:, :, None, :, None], dy[:, :, None, :, None],
    0).reshape(x.shape)
  ? pool: to all; x;
    jnp.broadcast_to(dy[:, :, None, :, None], t.shape).reshape(x.shape); largest alone
  ? pool: neighbor; x;
    jnp.roll(jnp.where(t == y[:, :, None, :, None], dy[:, :, None, :, None],
    0).reshape(x.shape), 1, 2); shifted
mean: x 4,5
  y = x.mean(1)
  dx = jnp.broadcast_to(dy[:, None] / 5, x.shape)
  ? mean: a sum; x; jnp.broadcast_to(dy[:, None], x.shape); mean
attention: q 4,3  k 4,3  v 4,3
  p = jax.nn.softmax(q @ k.T / 2.0, -1)
  y = p @ v
  dq = ds(p, dy @ v.T) @ k / 2.0
  dk = ds(p, dy @ v.T).T @ q / 2.0
  dv = p.T @ dy
  ? attention: scale; q; ds(p, dy @ v.T) @ k; factor 2
  ? attention: softmax; k; (p * (dy @ v.T)).T @ q / 2.0; left out
  ? attention: dv; v; p @ dy; transpose
  ? attention: q and k; q; ds(p, dy @ v.T) @ q / 2.0; exchanged
unit: x 4,3
  n = jnp.sqrt((x * x).sum(-1, keepdims=True) + 1e-2)
  y = x / n
  dx = dy / n - x * (dy * x).sum(-1, keepdims=True) / n**3
  ? unit: norm path; x; dy / n; left out
  ? unit: power; x; dy / n - x * (dy * x).sum(-1, keepdims=True) / n**2; power
dropout: x 4,3  m @
  y = jnp.where(m > 0, x / 0.8, 0)
  dx = jnp.where(m > 0, dy / 0.8, 0)
  ? dropout: mask; x; dy / 0.8; mask
  ? dropout: scale; x; jnp.where(m > 0, dy, 0); 0.8
outer: a 4  b 4
  y = a[:, None] * b[None]
  da = dy @ b
  db = dy.T @ a
  ? outer: exchanged; a; dy @ a; exchanged
  ? outer: axis; a; dy.T @ b; transposed|axis
scale: x 3,4,2  g 2
  y = x * g
  dx = dy * g
  dg = (dy * x).sum((0, 1))
  ? scale: an axis; g; (dy * x).sum(0); sum
  ? scale: dx; x; dy; dy itself|left out
column: x 4,3  g 4,1
  y = x * g
  dx = dy * g
  dg = (dy * x).sum(1, keepdims=True)
  ? column: keepdims; g; (dy * x).sum(1); keepdims|shape
  ? column: mean; g; (dy * x).mean(1, keepdims=True); mean
root: x @
  y = jnp.sqrt(x)
  dx = dy / (2 * y)
  ? root: 1/2; x; dy / y; factor 2|1/2
  ? root: multiplied; x; dy * y / 2; power
log: x @
  y = jnp.log(jnp.sqrt(x))
  dx = dy / (2 * x)
  ? log: not 1/2; x; dy / x; factor 2
lse: x 4,3
  y = jax.nn.logsumexp(x, 1)
  dx = jax.nn.softmax(x, 1) * dy[:, None]
  ? lse: dy; x; jax.nn.softmax(x, 1); dy is ignored
  ? lse: wrong axis; x; jax.nn.softmax(x, 0) * dy[:, None];
    axis 0 of .4, 3., not 1
"""
FRESH = r"""
softplus: x 4,3
  y = jnp.logaddexp(x, 0.0)
  dx = dy * jax.nn.sigmoid(x)
  ? softplus: x, h1; x; dy * jax.nn.softplus(x); output stands
  ? softplus: x, h2; x; dy * jax.nn.sigmoid(-x); 1 minus
rms: x 5,4  g 4
  r = 1 / jnp.sqrt((x * x).mean(-1, keepdims=True) + 1e-4)
  h = x * r
  y = h * g[None]
  dx = r * (dy * g[None] - h * (dy * g[None] * h).mean(-1, keepdims=True))
  dg = (dy * h).sum(0)
  ? rms: x, h3; x; r * (dy * g[None] - h * (dy * h).mean(-1, keepdims=True));
    factor g is left out
  ? rms: x, h4; x; r * dy * g[None]; left out
  ? rms: g, h5; g; (dy * x).sum(0); x|left out
mlp: x 5,3  a 3,4  b 4,2
  z = x @ a
  h = jnp.maximum(z, 0.0)
  y = h @ b
  dx = jnp.where(z > 0, dy @ b.T, 0) @ a.T
  da = x.T @ jnp.where(z > 0, dy @ b.T, 0)
  db = h.T @ dy
  ? mlp: a, h6; a; x.T @ (dy @ b.T); mask
  ? mlp: x, h7; x; jnp.where(z > 0, 0, dy @ b.T) @ a.T; wrong way
  ? mlp: b, h8; b; z.T @ dy; z|maximum|place
bilinear: x 5,3  m 3,3  z 5,3
  y = ((x @ m) * z).sum(1)
  dx = (dy[:, None] * z) @ m.T
  dm = x.T @ (dy[:, None] * z)
  dz = dy[:, None] * (x @ m)
  ? bilinear: m, h9; m; z.T @ (dy[:, None] * x); transpose|exchanged
  ? bilinear: x, h10; x; (dy[:, None] * z) @ m; transpose
  ? bilinear: z, h11; z; dy[:, None] * x; x stands in
glu: x 4,6
  a = x[:, :3]
  b = x[:, 3:]
  s = jax.nn.sigmoid(b)
  y = a * s
  dx = jnp.concatenate([dy * s, dy * a * s * (1 - s)], 1)
  ? glu: x, h12; x; jnp.concatenate([dy * a * s * (1 - s), dy * s], 1); exchanged|parts
  ? glu: x, h13; x; jnp.concatenate([dy * s, dy * a * s], 1); derivative|left out
average: x 3,6
  y = (x[:, :-1] + x[:, 1:]) / 2
  dx = (jnp.pad(dy, ((0, 0), (0, 1))) + jnp.pad(dy, ((0, 0), (1, 0)))) / 2
  ? average: x, h14; x; jnp.pad(dy, ((0, 0), (0, 1))) / 2; left out
  ? average: x, h15; x;
    (jnp.pad(dy, ((0, 0), (0, 1))) - jnp.pad(dy, ((0, 0), (1, 0)))) / 2; sign
logistic: z 6  t @
  y = jnp.where(t == 1, jnp.logaddexp(0.0, -z), jnp.logaddexp(0.0, z)).mean()
  dz = (jax.nn.sigmoid(z) - t) * dy / 6
  ? logistic: z, h16; z; (jax.nn.sigmoid(z) - t) * dy; sum|mean
  ? logistic: z, h17; z; (jax.nn.sigmoid(z) + t) * dy / 6; multiple of t
  ? logistic: z, h18; z; (t - jax.nn.sigmoid(z)) * dy / 6; sign
decay: x 6,3  a 3
  def step(h, row):
      h = a * h + row
      return h, h
  y = lax.scan(step, jnp.zeros(3, x.dtype), x)[1]
  dx = decay(x, a, y, dy)[0]
  da = decay(x, a, y, dy)[1]
  ? decay: a, h19; a; decay(x, a, y, dy, 1)[1]; left out|time
  ? decay: x, h20; x; decay(x, 1 + 0 * a, y, dy)[0]; left out
cosine: a 4,3  b 4,3
  n = jnp.sqrt((a * a).sum(1))
  m = jnp.sqrt((b * b).sum(1))
  d = (a * b).sum(1)
  y = d / (n * m)
  da = (dy / (n * m))[:, None] * b - (dy * d / (n**3 * m))[:, None] * a
  db = (dy / (n * m))[:, None] * a - (dy * d / (m**3 * n))[:, None] * b
  ? cosine: a, h21; a; (dy / (n * m))[:, None] * b; left out
  ? cosine: b, h22; b;
    (dy / (n * m))[:, None] * a + (dy * d / (m**3 * n))[:, None] * b; sign
variance: x 6,3
  c = x - x.mean(0)[None]
  y = (c * c).sum(0) / 5
  dx = 2 * c * dy[None] / 5
  ? variance: x, h23; x; 2 * c * dy[None] / 6; factor
  ? variance: x, h24; x; c * dy[None] / 5; factor|2
  ? variance: x, h29; x; 2 * (x - x.mean(1)[:, None]) * dy[None] / 5; axis 1
gelu: x 4,3
  p = (1 + lax.erf(x / jnp.sqrt(2.0))) / 2
  y = x * p
  dx = dy * (p + x * jnp.exp(-x * x / 2) / jnp.sqrt(2 * jnp.pi))
  ? gelu: x, h30; x; dy * (p + x * jnp.exp(-x * x / 2)); constant factor 2.5066
spread: x 4,5
  y = x.max(1) - x.min(1)
  dx =
    jnp.where(x == x.max(1)[:, None], dy[:, None], 0) - jnp.where(x == x.min(1)[:,
    None], dy[:, None], 0)
  ? spread: x, h25; x; jnp.where(x == x.max(1)[:, None], dy[:, None], 0); left out
  ? spread: x, h26; x;
    jnp.where(x == x.max(1)[:, None], dy[:, None], 0) + jnp.where(x == x.min(1)[:,
    None], dy[:, None], 0); sign
upsample: x 2,3,3
  y = jnp.repeat(jnp.repeat(x, 2, 1), 2, 2)
  dx = dy.reshape(2, 3, 2, 3, 2).sum((2, 4))
  ? upsample: x, h27; x; dy[:, ::2, ::2]; windows
  ? upsample: x, h28; x; dy.reshape(2, 3, 2, 3, 2).mean((2, 4)); mean|factor
"""


class Formula(NamedTuple):
    """y by its lines, and the gradient of each argument as an expression."""

    args: dict[str, Any]  # name -> shape, or an array
    lines: str
    grads: dict[str, str]


class Mistake(NamedTuple):
    """A formula with one gradient replaced, and words the cause has to hold."""

    title: str
    formula: str
    argument: str
    wrong: str
    words: str


def read(text: str) -> tuple[dict[str, Formula], list[Mistake]]:
    """The formulas and the mistakes of a text."""
    formulas, mistakes = {}, []
    whole = re.sub(r"\n {4}(?=\S)", " ", text.strip())  # a long line goes on at 4
    for line in whole.splitlines():
        if not line.startswith(" "):
            name, _, rest = line.partition(": ")
            pairs = (pair.split() for pair in rest.split("  "))
            args = {
                n: ARRAYS[name, n] if a == "@" else tuple(map(int, a.split(",")))
                for n, a in pairs
            }
            formula = formulas[name] = Formula(args, "", {})
            continue
        head, _, value = line.strip().partition(" = ")
        if line.startswith("  ? "):
            title, argument, wrong, words = line.removeprefix("  ? ").split(";")
            mistakes.append(
                Mistake(title, name, argument.strip(), wrong.strip(), words.strip())
            )
        elif head[:1] == "d" and head[1:] in formula.args:
            formula.grads[head[1:]] = value
        else:
            formula = formulas[name] = formula._replace(
                lines=formula.lines + line[2:] + "\n"
            )
    return formulas, mistakes


FORMULAS, MISTAKES = read(KNOWN)
FRESH_FORMULAS, FRESH_MISTAKES = read(FRESH)
"""FRESH was written after the causes were, and not looked at before."""


def conv(x, w):
    """A convolution that keeps the size of the image."""
    axes = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=axes)


def conv_back(x, w, dy):
    """Its gradients (dx, dw)."""
    return jax.vjp(conv, x, w)[1](dy)


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
    known = dict(globals())

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
