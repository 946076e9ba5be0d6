"""Why a check failed: what each layer shows by itself, before a loss is suspected.

Every layer is called as the network calls it, then once more: for the same images, for
half of them, for images near by, and backwards with random dy. A cause is named only
where a layer, or the loss, shows it; else it is "not found".
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn import programs
from jaxnn.arrays import is_float
from jaxnn.attacks.classifier import Classifier
from jaxnn.robustness.checks import TINY, without_gradient
from jaxnn.robustness.context import Check, CheckContext
from jaxnn.robustness.masking import note_layers
from jaxnn.robustness.slopes import Slopes, apart, differentiable, in_float64, measure
from jaxnn.robustness.threat import surely_above

IMAGES = 50  # that the layers are shown
MANY = 0.5  # share of a layer's images or entries from which it is a cause


def find_cause(e: CheckContext, failed: list[Check]) -> str:
    """What hides the gradient or makes it wrong, in words; "not found" is an answer."""
    if not e.model.gradients:
        return "not found; a black box shows no layers"
    names = {c.id for c in failed}
    for causes in (_of_outputs, _of_gradients, _of_blocking, _of_the_loss):
        for cause in causes(e, names):
            return cause
    return "not found"


def _of_outputs(e, failed) -> Iterator[str]:
    """Outputs that are no function of the image, or no numbers."""
    if not failed & {"K2", "K15", "K16", "K17", "K18"}:
        return
    key = e.model.key
    other = None if key is None else jax.random.fold_in(key, 1)
    layers, again = _shown(e.model, e.x, _outputs, key, other)
    for layer in layers:
        if layer.facts["lost"].any():
            yield f"layer {layer.label}: its outputs are NaN or infinite"
    for layer, second in zip(layers, again, strict=True):
        first, other = (found.facts["y"] for found in (layer, second))
        if not np.array_equal(first, other, equal_nan=True):
            yield f"randomness in layer {layer.label}: the same images, other outputs"
    for layer in layers:
        if layer.facts["company"].any():
            yield (
                f"layer {layer.label}: its output for an image depends on the other "
                "images of the batch (batch statistics?)"
            )
    for layer in layers:
        if layer.facts["jumps"].mean() >= MANY:
            yield (
                f"randomness in layer {layer.label}: its outputs jump however near "
                "the inputs are"
            )


def _of_gradients(e, failed) -> Iterator[str]:
    """A backward pass that is not its forward's."""
    if "K18" not in failed:
        return
    with jax.enable_x64(True):
        x = np.asarray(e.x, np.float64)
        (layers,) = _shown(in_float64(e.model), x, _gradients, e.model.key)
    for layer in layers:
        wrong = Slopes(*layer.facts["slopes"]).wrong() | layer.facts["apart"]
        if surely_above(int(wrong.sum()), wrong.size, 0.1):
            yield f"layer {layer.label}: its backward pass is not its forward's"
    yield (
        "a backward pass that is not the forward's; each layer's own is right, so what "
        "combines them is wrong"
    )


def _of_blocking(e, failed) -> Iterator[str]:
    """Layers that pass no gradient, or hide it where an attack through them shows."""
    masking = e.masking
    if masking.blocking:
        yield "layer " + ", ".join(layer.label for layer in masking.blocking)
    if "K20" in failed and masking.saturated is not None:
        yield f"layer {masking.saturated.label}"


def _of_the_loss(e, failed) -> Iterator[str]:
    """A loss whose gradient has died while another one's lives, or leads elsewhere."""
    dead = {n: int(m.sum()) for n, m in without_gradient(e, TINY).items()}
    worst, least = max(dead, key=lambda n: dead[n]), min(dead.values())
    total = max(1, int(e.clean.sum()))
    if dead[worst] >= 0.1 * total and least < dead[worst] - 0.05 * total:
        yield f"the loss: {worst} has no gradient left where the network is sure"
    if "K11" in failed:
        yield "the loss: along another one's gradient more images break"


class Shown(NamedTuple):
    """A layer, and what it did with the images, with a leading axis of its runs."""

    label: str
    facts: dict[str, Any]


def _shown(model: Classifier, x: Any, facts: Callable, *keys: Any) -> list[list[Shown]]:
    """`facts(again, x, y)` of every layer, from the input on, once for each key.

    `again(x)` runs the layer once more; the key is what the network draws from.
    """

    def of_floats(again, x, y):
        return facts(again, x, y) if is_float(x) else None

    x = jnp.asarray(x[:IMAGES])
    twin, notes, _ = note_layers(model, x, of_floats)
    found = []
    for key in keys:
        notes.clear()
        jax.block_until_ready(_run(replace(twin, key=key), x))
        jax.effects_barrier()
        runs: dict[tuple, list] = {}
        for call, noted in sorted(notes, key=lambda note: note[0].path):
            runs.setdefault((call.path, call.label), []).append(noted)
        found.append([
            Shown(label, jax.tree.map(lambda *a: np.stack(a), *noted))
            for (_, label), noted in runs.items()
        ])  # fmt: skip
    return found


@programs.jit
def _run(twin, x):
    return twin.net.forward(twin.params, twin.state, x, key=twin.key, train=False)[0]


def _outputs(again, x, y):
    """Are the outputs numbers, the image's own, and near for inputs that are near?"""
    half = max(1, len(x) // 2)
    alone = again(x[:half])[0]
    finite = jnp.isfinite(x).reshape(len(x), -1).all(-1)
    size = jnp.abs(jnp.where(jnp.isfinite(y), y, 0)).max()
    spread = 1e-3 * jnp.sqrt(jnp.square(x).mean()) + 1e-6
    v = spread * jax.random.normal(jax.random.key(0), x.shape, x.dtype)
    far, near = (
        jnp.square(again(x + step * v)[0] - y).reshape(len(y), -1).sum(-1)
        for step in (1.0, 0.1)
    )
    return {
        "y": y,
        "lost": finite & ~jnp.isfinite(y).reshape(len(y), -1).all(-1),
        "company": jnp.abs(alone - y[:half]) > 1e-3 * size,
        # squares: of a smooth function a hundredth is left, of a staircase a tenth
        "jumps": (near > 0.25 * far) & (near > 1e-8 * size**2 * y[0].size),
    }


def _gradients(again, x, y):
    """Is the backward pass the forward's, off the ties of the layer's own input?"""
    keys = jax.random.split(jax.random.key(1), 3)
    size = jnp.sqrt(jnp.square(x).mean()) + 1e-3
    near, v = (jax.random.normal(k, x.shape, x.dtype) for k in keys[:2])
    x = x + 0.01 * size * near
    dy = jax.random.normal(keys[2], y.shape, y.dtype)
    dx = again(x)[1](dy)

    def output(x):
        return again(x)[0]

    def by_jax(x):
        return jax.vjp(output, x)[1](dy)[0]

    other = jnp.zeros(len(x), bool)
    if differentiable(by_jax, x):
        other = apart(dx, by_jax(x))
    return {"slopes": tuple(measure(output, dx, x, dy, v)), "apart": other}
