"""What the robustness experiments share: MNIST in [0, 1], attacks over all test images,
the networks of the papers, a table and a verdict for each line that is expected."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.common import at, in_words, percents, print_epoch, spreads
from jaxnn import Classifier, attacks, fit, mlp, robustness, serial
from jaxnn.attacks.core import ascent_direction, per_image
from jaxnn.data import load, stratified_sample, unit_images
from jaxnn.layers import Layer, conv, dense, flatten, max_pool, relu, reshape
from jaxnn.losses import softmax_cross_entropy
from jaxnn.tree import map_batches


class Digits(NamedTuple):
    """MNIST: uint8 training pairs, test images as floats in [0, 1]."""

    train: Any  # (x (N, 28, 28) uint8, y (N,))
    validation: Any
    x: np.ndarray  # (10000, 28, 28) float32
    y: np.ndarray  # (10000,)


def digits(validation: int = 5000) -> Digits:
    """The data, with so many training images kept aside."""
    data = load("mnist", validation=validation)
    x = unit_images(data.test.x)
    return Digits(data.train, data.validation, x, data.test.y)


def wong() -> Layer:
    """conv4x4-16 and conv4x4-32 with stride 2, 100, 10 (Wong et al. 2020).

    Weights and biases start as PyTorch's do: uniform within 1 / sqrt(inputs of a unit).
    """

    def start(inputs):
        def draw(key, shape, dtype):
            return jax.random.uniform(key, shape, dtype, -1, 1) / inputs**0.5

        return {"init": draw, "bias": draw}

    edge = ((1, 1), (1, 1))
    return serial(
        reshape(28, 28, 1), conv(16, 4, 2, edge, **start(16)), relu,
        conv(32, 4, 2, edge, **start(256)), relu, flatten,
        dense(100, **start(1568)), relu, dense(10, **start(100)),
    )  # fmt: skip


def madry() -> Layer:
    """conv5x5-32, pool, conv5x5-64, pool, 1024, 10 (Madry et al. 2018)."""
    return serial(
        reshape(28, 28, 1), conv(32, 5), relu, max_pool(2), conv(64, 5), relu,
        max_pool(2), flatten, dense(1024), relu, dense(10),
    )  # fmt: skip


def accuracy(model: Classifier, x: Any, y: Any) -> float:
    """Share of the images that it classifies as labeled."""
    return float(model.correct(x, y).mean())


def attack_all(
    model: Classifier, attack: Callable, x: Any, y: Any, batch: int = 500, **more: Any
) -> np.ndarray:
    """Every image after one attack of `jaxnn.attacks`."""
    run = partial(attack, model, **more)
    return map_batches(run, x, y, batch=min(batch, len(y)))


def still_correct(
    model: Classifier, attack: Callable, x: Any, y: Any, **options: Any
) -> np.ndarray:
    """Which images (N,) stay right; those wrong before are not attacked."""
    if not len(y):
        return np.zeros(0, bool)
    stands = model.correct(x, y)
    rows = np.flatnonzero(stands)
    if len(rows):
        x_adv = attack_all(model, attack, x[rows], y[rows], **options)
        stands[rows] = model.correct(x_adv, y[rows])
    return stands


def worst_case(
    model: Classifier, x: Any, y: Any, epsilon: float, seed: int = 0, steps: int = 40
) -> robustness.WorstCase:
    """The worst case of FGSM, PGD and PGD on the margin, as in a run's report."""
    threat, key = robustness.Threat("linf", epsilon), jax.random.key(seed)
    return robustness.worst_case(model, x, y, threat=threat, key=key, steps=steps)


def members(net: Layer, history: Any, seeds: int) -> list[Classifier]:
    """The networks of a run with several seeds, one by one."""
    both = history.params, history.state
    return [Classifier(net, *at(both, i)) for i in range(seeds)]


def pgd_restarts(
    target: Classifier, x: Any, y: Any, restarts: int, seed: int = 0, **options: Any
) -> np.ndarray:
    """Which images (N,) stay right under `restarts` runs of PGD.

    An image that one start has broken is not shown to the next: worst case per image.
    """
    stands = target.correct(x, y)
    for restart in range(restarts):
        rows = np.flatnonzero(stands)
        key = jax.random.fold_in(jax.random.key(seed), restart)
        stands[rows] = still_correct(
            target, attacks.pgd, x[rows], y[rows], key=key, **options
        )
    return stands


def table(*results: dict[str, Any]) -> list[list[str]]:
    """README's table: what every experiment expected, and what it found."""
    rows = [["experiment", "number", "expected", "measured"]]
    for result in results:
        name = f"`{result['experiment']}`"
        for line in result["values"]["expected"]:
            bounds, number = in_words(line)
            measured = number if line["passed"] else f"**{number}**, missed"
            rows.append([name, line["what"], ", ".join(bounds), measured])
            name = ""
    return rows


def measured(
    name: str, nets: list[Classifier], measure: Callable[..., dict[str, float]]
) -> dict[str, dict]:
    """The spread of each share of `measure(net, seed)`; prints them on a line."""
    found = spreads([measure(net, seed) for seed, net in enumerate(nets)])
    shares = "  ".join(f"{n} {percents(v['values'])}%" for n, v in found.items())
    print(f"{name:<22} {shares}", flush=True)
    return found


def judged(
    target: Classifier, data: Digits, epsilon: float, title: str, images: int = 500
) -> dict[str, Any]:
    """The checks K1 to K20 on a stratified sample; prints what did not pass."""
    rows = stratified_sample(data.y, images, 0)
    found = robustness.evaluate(
        target, data.x[rows], data.y[rows],
        threat=robustness.Threat("linf", epsilon), sample=images,
    )  # fmt: skip
    said = [c for c in found.checks if c.verdict in ("warn", "fail")]
    print(f"\nChecks of {title}, eps {epsilon:g}, {images} images (stratified)")
    print(f"  clean {found.clean}, robust {found.robust}")
    for check in said:
        print(f"  {check.verdict} {check.id} {check.name}: {check.message}")
    print(f"  {found.verdict}")
    return {
        "images": found.clean.total, "clean": found.clean.value,
        "robust": found.robust.value, "verdict": found.verdict,
        "checks": {c.id: [c.verdict, c.message] for c in found.checks},
    }  # fmt: skip


def trained(
    data: Digits, seeds: int, epochs: int, layer: Layer | None = None, *,
    first_seed: int = 0, batch: int = 128, lr: float = 2e-3, **options: Any,
) -> list[Classifier]:  # fmt: skip
    """784-128-10 (or `layer`) with Adam and a falling rate, `seeds` side by side."""
    net = mlp([784, 128, 10]) if layer is None else layer
    steps = len(data.train.y) // batch * epochs
    optimizer = optax.adam(optax.cosine_decay_schedule(lr, steps))
    history = fit(
        net, data.train, optimizer=optimizer, epochs=epochs, batch=batch,
        seeds=range(first_seed, first_seed + seeds), **options,
    )  # fmt: skip
    return members(net, history, seeds)


def alone(net: Layer, pairs: Any, **options: Any) -> tuple[Classifier, Any]:
    """A network trained by itself, with a line an epoch; and its history."""
    history = fit(net, pairs, on_epoch=print_epoch, **options)
    return Classifier(net, history.params, history.state), history


@partial(jax.jit, static_argnums=(0, 1))
def _until_fooled(loss, steps, model, x, y, length):
    def go_on(carry):
        i, *_, done = carry
        return (i < steps) & ~done.all()

    def once(carry):
        i, x_adv, before, near, done = carry
        _, dx, pred = model.value_and_gradient(x_adv, y, loss)
        wrong = pred.argmax(-1) != y
        done |= wrong & near
        back = wrong & ~near  # to the last point that was right, from there in eighths
        step = jnp.where(near, length / 8, length)
        moved = x_adv + per_image(step, x) * ascent_direction(dx, "l2")
        moved = jnp.clip(moved, 0, 1)
        following = jnp.where(per_image(back, x), before, moved)
        following = jnp.where(per_image(done, x), x_adv, following)
        before = jnp.where(per_image(back | done, x), before, x_adv)
        return i + 1, following, before, near | wrong, done

    nothing = jnp.zeros(len(y), bool)
    return jax.lax.while_loop(go_on, once, (0, x, x, nothing, nothing))[1]


def until_fooled(
    target: Classifier, x: Any, y: Any, length: float = 0.1, steps: int = 200
) -> np.ndarray:
    """Steps of that length up the input's gradient until the network is wrong.

    The last step is done again in eighths, so that the image stops behind the border.
    Pixels stay in [0, 1]; there is no budget.
    """

    def attack(a, b):
        return _until_fooled(softmax_cross_entropy, steps, target, a, b, length)

    return map_batches(attack, x, y, batch=min(1000, len(y)))
