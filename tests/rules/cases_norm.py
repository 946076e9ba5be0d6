"""Cases of the norms; those of a sample have references that go sample by sample."""

import jax.numpy as jnp
import numpy as np

from jaxnn import rules
from tests.rules.common import Case, normal


def batch_norm(epsilon):
    def reference(x, gamma, beta):
        rows = x.reshape(-1, x.shape[-1])  # (n, C)
        n, ones = len(rows), jnp.ones((len(rows), 1))
        mean = ones @ (rows.sum(0, keepdims=True) / n)
        var = ((rows - mean) ** 2).sum(0, keepdims=True) / n
        x_hat = (rows - mean) / (ones @ jnp.sqrt(var + epsilon))
        return (x_hat * (ones @ gamma[None]) + ones @ beta[None]).reshape(x.shape)

    return reference


def in_groups(reference, groups):
    """Ghost batch norm: each part of the batch by its own statistics."""

    def apart(x, gamma, beta):
        parts = [reference(part, gamma, beta) for part in jnp.split(x, groups)]
        return jnp.concatenate(parts)

    return apart


def batch_norm_fixed(epsilon):
    def reference(x, gamma, beta, mean, var):
        gamma, beta, mean, var = (
            jnp.broadcast_to(v, x.shape) for v in (gamma, beta, mean, var)
        )
        return gamma * (x - mean) / jnp.sqrt(var + epsilon) + beta

    return reference


def batch_norm_cases(fixed: bool):
    make = rules.batch_norm_fixed if fixed else rules.batch_norm
    inputs = {
        "batch": (normal(5, 3), 1e-5),
        # With a small epsilon dx of two rows is rounding and nothing else.
        "two rows, one channel": (normal(2, 1), 1.0),
        "images": (normal(4, 1, 3, 2), 1e-3),
        "large mean": (100 + normal(6, 3), 1e-5),
        "spread below epsilon": (normal(6, 3) * 1e-6, 1e-5),
        "constant channel": (normal(6, 3) * np.array([1.0, 0, 1])[None], 1e-5),
        "batch of one": (normal(1, 4), 1e-5),
    }
    if fixed:  # no statistics are taken, so no rows are needed
        inputs["no rows"] = (normal(0, 3), 1e-5)
    cases = []
    for name, (x, epsilon) in inputs.items():
        c = x.shape[-1]
        args = (x, normal(c, seed=1), normal(c, seed=2))
        if fixed:
            args = (*args, normal(c, seed=3), normal(c, seed=4) ** 2)
        rule = make() if epsilon == 1e-5 else make(epsilon)
        reference = batch_norm_fixed(epsilon) if fixed else batch_norm(epsilon)
        constants = (3, 4) if fixed else ()
        cases.append(Case(name, rule, args, reference, constants))
    return cases


# ---- of each sample


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
    "batch": (normal(3, 5), 1e-5), "one channel": (normal(3, 1), 1e-5),
    "two channels": (normal(2, 2), 1.0), "batch of one": (normal(1, 4), 1e-5),
    "images": (normal(2, 1, 3, 4), 1e-3), "no batch axis": (normal(6), 1e-5),
    "large mean": (100 + normal(3, 6), 1e-5),
    "spread below epsilon": (normal(3, 6) * 1e-6, 1e-5),
    "a constant row": (normal(3, 4) * np.array([[1.0], [0], [1]]) + 0.5, 1e-5),
    "no rows": (normal(0, 3), 1e-5),
}  # fmt: skip
GROUP = {
    "one group": (normal(2, 3, 2, 4), 1, 1e-5),
    "two groups": (normal(2, 3, 2, 4), 2, 1e-5),
    "each channel alone": (normal(2, 3, 2, 3), 3, 1e-3),
    "one value a group": (normal(2, 3), 3, 1e-5),
    "no positions": (normal(3, 6), 2, 1e-5), "batch of one": (normal(1, 5, 2), 1, 1e-5),
    "all of size one": (normal(1, 1, 1), 1, 1e-5),
    "large mean": (100 + normal(2, 3, 4), 2, 1e-5),
    "no rows": (normal(0, 3, 4), 2, 1e-5),
}  # fmt: skip


def group_rule(groups, epsilon):
    if (groups, epsilon) == (1, 1e-5):
        return rules.group_norm()
    return rules.group_norm(groups, epsilon)


CASES = {
    "batch_norm": [
        *batch_norm_cases(fixed=False),
        case(
            "groups",
            rules.batch_norm(groups=4),
            1 + 2 * normal(8, 3, 2),
            in_groups(batch_norm(1e-5), 4),
        ),
    ],
    "batch_norm_fixed": batch_norm_cases(fixed=True),
    "layer_norm": [
        case(name, rules.layer_norm(epsilon), x, layer_norm(epsilon))
        for name, (x, epsilon) in LAYER.items()
    ],
    "group_norm": [
        case(name, group_rule(groups, epsilon), x, group_norm(groups, epsilon))
        for name, (x, groups, epsilon) in GROUP.items()
    ],
}
