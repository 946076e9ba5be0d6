"""Rival: Equinox, `eqx.filter_jit` of a step in a Python loop.

Model and optimizer state pass through the step as flat lists, the trick of Equinox's
"Low-overhead training loops" page: a fifth less time on 784-30-10. Donating them saves
nothing here.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.rivals import Rival, Task, batches, start, unit

OPTIMIZERS = {"sgd": optax.sgd, "adam": optax.adam}


class Network(eqx.Module):
    """Relu layers and a last linear one, for one image (I,) -> (C,)."""

    layers: list[eqx.nn.Linear]

    def __init__(self, weights):
        self.layers = []
        for w, b in weights:
            linear = eqx.nn.Linear(*w.shape, key=jax.random.key(0))
            linear = eqx.tree_at(
                lambda layer: (layer.weight, layer.bias),
                linear,
                (jnp.asarray(w.T), jnp.asarray(b)),  # Equinox keeps w as (O, I)
            )
            self.layers.append(linear)

    def __call__(self, x):
        """The logits of one image."""
        for layer in self.layers[:-1]:
            x = jax.nn.relu(layer(x))
        return self.layers[-1](x)


def mean_loss(model, x, y):
    """Softmax cross-entropy, mean over the batch: x (B, I), y (B,) -> ()."""
    z = jax.vmap(model)(x)
    return optax.softmax_cross_entropy_with_integer_labels(z, y).mean()


def make(task: Task) -> Rival:
    opt = task.chosen(OPTIMIZERS)(task.learning_rate)
    model = Network(start(task.widths, task.seed))
    state = opt.init(eqx.filter(model, eqx.is_inexact_array))
    model, model_tree = jax.tree.flatten(model)
    state, state_tree = jax.tree.flatten(state)
    images, labels = unit(task.x), task.y

    @eqx.filter_jit
    def step(model, state, x, y):
        model = jax.tree.unflatten(model_tree, model)
        state = jax.tree.unflatten(state_tree, state)
        loss, grads = eqx.filter_value_and_grad(mean_loss)(model, x, y)
        updates, state = opt.update(grads, state, model)
        model = eqx.apply_updates(model, updates)
        return jax.tree.leaves(model), jax.tree.leaves(state), loss

    predict = eqx.filter_jit(lambda model, x: jax.vmap(model)(x))

    def epoch(index: int) -> float:
        nonlocal model, state
        losses = []
        for rows in batches(task, index):
            model, state, loss = step(model, state, images[rows], labels[rows])
            losses.append(loss)
        jax.block_until_ready(model)
        return float(np.mean(jax.device_get(losses)))

    def accuracy(x: np.ndarray, y: np.ndarray) -> float:
        said = predict(jax.tree.unflatten(model_tree, model), unit(x)).argmax(1)
        return float((said == y).mean())

    return Rival("equinox_loop", eqx.__version__, epoch, accuracy)
