"""Cases of layer and group norm; the references go sample by sample."""

import jax.numpy as jnp
import numpy as np

from jaxnn import rules
from tests.rules.common import Case, normal


def standard(a, epsilon):
    """All of `a` together to mean 0 and variance 1."""
    centered = a - a.sum() / a.size
    return centered / jnp.sqrt((centered**2).sum() / a.size + epsilon)


def layer_norm(epsilon):
    def reference(x, gamma, beta):
        rows = x.reshape(-1, x.shape[-1]) if x.size else []
        y = [gamma * standard(row, epsilon) + beta for row in rows]
        return jnp.stack(y).reshape(x.shape) if y else jnp.zeros(x.shape)

    return reference


def group_norm(groups, epsilon):
    def reference(x, gamma, beta):
        c = x.shape[-1] // groups
        samples = []
        for sample in x:
            parts = [
                standard(sample[..., g * c : (g + 1) * c], epsilon)
                for g in range(groups)
            ]
            y = jnp.concatenate(parts, -1)
            samples.append(y * jnp.broadcast_to(gamma, y.shape))
        y = jnp.stack(samples) if samples else x
        return y + jnp.broadcast_to(beta, y.shape)

    return reference


def case(name, rule, x, reference):
    c = x.shape[-1]
    return Case(name, rule, (x, normal(c, seed=1), normal(c, seed=2)), reference)


LAYER = {
    "batch": (normal(3, 5), 1e-5),
    "one channel": (normal(3, 1), 1e-5),
    "two channels": (normal(2, 2), 1.0),
    "batch of one": (normal(1, 4), 1e-5),
    "images": (normal(2, 1, 3, 4), 1e-3),
    "no batch axis": (normal(6), 1e-5),
    "large mean": (100 + normal(3, 6), 1e-5),
    "spread below epsilon": (normal(3, 6) * 1e-6, 1e-5),
    "a constant row": (normal(3, 4) * np.array([[1.0], [0], [1]]) + 0.5, 1e-5),
    "no rows": (normal(0, 3), 1e-5),
}
GROUP = {
    "one group": (normal(2, 3, 2, 4), 1, 1e-5),
    "two groups": (normal(2, 3, 2, 4), 2, 1e-5),
    "each channel alone": (normal(2, 3, 2, 3), 3, 1e-3),
    "one value a group": (normal(2, 3), 3, 1e-5),
    "no positions": (normal(3, 6), 2, 1e-5),
    "batch of one": (normal(1, 5, 2), 1, 1e-5),
    "all of size one": (normal(1, 1, 1), 1, 1e-5),
    "large mean": (100 + normal(2, 3, 4), 2, 1e-5),
    "no rows": (normal(0, 3, 4), 2, 1e-5),
}


def group_rule(groups, epsilon):
    if (groups, epsilon) == (1, 1e-5):
        return rules.group_norm()
    return rules.group_norm(groups, epsilon)


CASES = {
    "layer_norm": [
        case(name, rules.layer_norm(epsilon), x, layer_norm(epsilon))
        for name, (x, epsilon) in LAYER.items()
    ],
    "group_norm": [
        case(name, group_rule(groups, epsilon), x, group_norm(groups, epsilon))
        for name, (x, groups, epsilon) in GROUP.items()
    ],
}
