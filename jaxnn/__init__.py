"""jaxnn: neural networks you can see through.

A network is plain functions over parameter pytrees and every backward pass is written
by hand: rules (`jaxnn.rules`) hold the calculus, layers (`jaxnn.layers`) bind them to
parameters, combinators (`serial`, `residual`, `mlp`) make networks, `fit` trains them,
`compare_gradients` checks them against `jax.grad`, `jaxnn.attacks` fools them.

Names are loaded when first used, so `import jaxnn` and `jaxnn --help` stay instant.
"""

import importlib
from typing import TYPE_CHECKING

# What `__getattr__` below gives, spelled out for editors and checkers; a function that
# has its module's name from there, as mypy takes the module from the package.
if TYPE_CHECKING:
    from jaxnn import (
        app,
        attacks,
        augment,
        check,
        combine,
        costs,
        data,
        defenses,
        distributed,
        errors,
        files,
        graph,
        guard,
        interop,
        layers,
        losses,
        optimizers,
        plots,
        regularize,
        robustness,
        rules,
        train,
        tree,
    )
    from jaxnn.app.folder import load_run
    from jaxnn.attacks import Classifier
    from jaxnn.check import compare_gradients
    from jaxnn.combine import (
        freeze,
        parallel,
        remat,
        repeat,
        residual,
        serial,
        share,
        siamese,
        stack,
    )
    from jaxnn.combine.mlp import mlp
    from jaxnn.costs import summary
    from jaxnn.errors import JaxnnError
    from jaxnn.interop import as_jax, from_jax, layer_from_jax
    from jaxnn.layers import Layer
    from jaxnn.rules import RULES, Rule
    from jaxnn.train import TrainingError, TrainState, make_step
    from jaxnn.train.checkpoint import load_params, save_params
    from jaxnn.train.evaluate import evaluate, predict
    from jaxnn.train.fit import fit
    from jaxnn.train.rates import find_lr

__version__ = "0.1.0"

_NAMES = {
    "app.folder": "load_run",
    "attacks": "Classifier",
    "check": "compare_gradients",
    "combine": "freeze mlp parallel remat repeat residual serial share siamese stack",
    "costs": "summary",
    "errors": "JaxnnError",
    "interop": "as_jax from_jax layer_from_jax",
    "layers": "Layer",
    "rules": "RULES Rule",
    "train": "TrainState TrainingError evaluate fit make_step predict",
    "train.checkpoint": "load_params save_params",
    "train.rates": "find_lr",
}
_HOME = {name: room for room, names in _NAMES.items() for name in names.split()}

__all__ = [
    "RULES", "Classifier", "JaxnnError", "Layer", "Rule", "TrainState", "TrainingError",
    "app", "as_jax", "attacks", "augment", "check", "combine", "compare_gradients",
    "costs", "data", "defenses", "distributed", "errors", "evaluate", "files",
    "find_lr", "fit", "freeze", "from_jax", "graph", "guard", "interop",
    "layer_from_jax", "layers", "load_params", "load_run", "losses", "make_step", "mlp",
    "optimizers", "parallel", "plots", "predict", "regularize", "remat", "repeat",
    "residual", "robustness", "rules", "save_params", "serial", "share", "siamese",
    "stack", "summary", "train", "tree",
]  # fmt: skip


def __getattr__(name: str):
    """Import a public name from its module when it is first asked for."""
    if name in _HOME:
        return getattr(importlib.import_module(f"jaxnn.{_HOME[name]}"), name)
    if name in __all__:
        return importlib.import_module(f"jaxnn.{name}")
    raise AttributeError(f"module 'jaxnn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
