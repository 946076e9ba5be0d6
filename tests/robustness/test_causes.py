"""What makes a check fail is named, or said not to be found; never something else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn import Classifier, serial
from jaxnn.combine import residual
from jaxnn.layers import dense, pointwise, relu
from jaxnn.robustness import Threat
from jaxnn.robustness.causes import find_cause
from jaxnn.robustness.context import CHECKS, CheckContext
from jaxnn.robustness.worst import attack_suite
from jaxnn.rules import Rule
from tests.attacks.problem import NET, trained

SHARP = 2.0**20  # a power of 2: any other factor rounds, and that is a gradient
CHECKED = ("K10", "K15", "K16", "K17", "K18")  # those that need no attack


def layer(name, fwd, bwd=lambda _, dy: (dy,)):
    return pointwise(Rule(name, fwd, bwd), name)


def of_the_image(x):
    """A number for each image that any change of a pixel changes: no noise source."""
    bits = jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.uint32)
    rows = bits.reshape(len(x), -1)
    odd = jnp.arange(1, 2 * rows.shape[1], 2, dtype=jnp.uint32)
    return (rows * odd[None]).sum(-1, dtype=jnp.uint32)


def noise(x):
    def draw(seed):
        return jax.random.normal(jax.random.key(seed), x.shape[1:], x.dtype)

    return x + 0.3 * jax.vmap(draw)(of_the_image(x)), ()


def callback_noise():
    draw = np.random.default_rng(0)

    def more(x):
        def noisy(a):
            a = np.asarray(a)  # a jax operation could wait for this very program
            return (a + 0.3 * draw.standard_normal(a.shape)).astype(a.dtype)

        return jax.pure_callback(noisy, jax.ShapeDtypeStruct(x.shape, x.dtype), x), ()

    return layer("generator", more)


def batch_statistics(x):
    std = x.std(0, keepdims=True) + 1e-3
    return (x - x.mean(0, keepdims=True)) / std, std


def steep(x):
    y = jax.nn.sigmoid(3000 * x)
    return y, y


def nothing(_, dy):
    return (jnp.zeros_like(dy),)


def twice_wrong():
    """A residual whose backward forgets the branch: each layer's own is right."""
    block = residual(serial(dense(12), relu, dense(12)))

    def backward(cache, dy):
        return dy, block.backward(cache, dy)[1]

    return block._replace(backward=backward)


INSIDE = "layer 1 serial(5 layers) > 2 "
CASES = {  # layer, where it goes (pixels, hidden or logits), the cause
    "wrong sign": (
        layer("flip", lambda x: (x, ()), lambda _, dy: (-dy,)), "hidden",
        INSIDE + "flip: its backward pass is not its forward's",
    ),
    "stopped": (
        layer("stopped", lambda x: (jax.lax.stop_gradient(x), ()), nothing), "hidden",
        INSIDE + "stopped: its backward pass is not its forward's",
    ),
    "straight through": (
        layer("rounded", lambda x: (jnp.round(8 * x) / 8, ())), "pixels",
        "layer 0 rounded: its backward pass is not its forward's",
    ),
    "wiring": (twice_wrong(), "hidden", "what combines them is wrong"),
    "input noise": (layer("noise", noise), "pixels", "randomness in layer 0 noise"),
    "callback": (callback_noise(), "pixels", "randomness in layer 0 generator"),
    "batch statistics": (
        layer("whiten", batch_statistics, lambda s, dy: (dy / s,)), "hidden",
        INSIDE + "whiten: its output for an image depends on the other images",
    ),
    "NaN": (
        layer("logarithm", lambda x: (jnp.log(x), ())), "hidden",
        INSIDE + "logarithm: its outputs are NaN or infinite",
    ),
    "temperature": (
        layer("sharp", lambda x: (SHARP * x, ()), lambda _, dy: (SHARP * dy,)),
        "logits", "the loss: cross-entropy has no gradient left",
    ),
    "few grays": (
        layer("grays", lambda x: (jnp.round(4 * x) / 4, ()), nothing), "pixels",
        "layer 0 grays",
    ),
    "staircase beside a way around": (
        residual(layer("stairs", lambda x: (jnp.round(x), ()), nothing)), "hidden",
        "stairs",
    ),
    "saturated": (
        layer("steep", steep, lambda y, dy: (3000 * y * (1 - y) * dy,)), "hidden",
        INSIDE + "steep",
    ),
    "infinite slope": (
        layer("root", lambda x: (jnp.sqrt(jnp.maximum(x, 0)), x),
              lambda x, dy: (jnp.where(x > 0, dy / (2 * jnp.sqrt(x)), jnp.nan),)),
        "hidden", INSIDE + "root",
    ),
    "nothing": (layer("same", lambda x: (x, ())), "hidden", "not found"),
    "a constant": (
        layer("dead", lambda x: (jnp.maximum(x - 1e3, 0), x),
              lambda x, dy: (jnp.where(x > 1e3, dy, 0),)),
        "hidden", "not found",
    ),
}  # fmt: skip


def built(case, params, state):
    """The trained network with one more layer."""
    more, where, _ = CASES[case]
    parts = [[NET.parts[0]], list(NET.parts[1].parts), []]
    trees = [[[tree[0]], list(tree[1]), []] for tree in (params, state)]
    at, number = {"pixels": (0, 0), "hidden": (1, 2), "logits": (2, 0)}[where]
    new, new_state, _ = more.init(jax.random.key(0), (12,) if number else (4, 4))
    for whole, one in zip((parts, *trees), (more, new, new_state), strict=True):
        whole[at].insert(number, one)

    def joined(whole, inside):
        return *whole[0], inside(whole[1]), *whole[2]

    chain = serial(*joined(parts, lambda inner: serial(*inner)))
    return Classifier(chain, *(joined(tree, tuple) for tree in trees))


@pytest.mark.parametrize("case", CASES)
def test_the_cause_is_the_layer_or_the_loss_that_shows_it(case):
    params, state, x, y = trained(60)
    model = built(case, params, state)
    suite = attack_suite("fast", "linf", 3)[:2]
    key, rows = jax.random.key(0), np.arange(len(y))
    e = CheckContext(model, Threat("linf", 0.15), key, len(y), x, y, rows, suite)
    failed = [c for c in (CHECKS[i](e) for i in CHECKED) if c.verdict == "fail"]
    wanted = CASES[case][2]
    assert bool(failed) == (wanted != "not found") or case.startswith("staircase")
    assert wanted in find_cause(e, failed)
