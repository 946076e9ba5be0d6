"""jaxnn: neural networks you can see through.

A network is plain functions over parameter pytrees and every backward pass is written
by hand: rules (`jaxnn.rules`) hold the calculus, layers (`jaxnn.layers`) bind them to
parameters, combinators (`serial`, `residual`, `mlp`) make networks, `fit` trains them,
`compare_gradients` checks them against `jax.grad`, `jaxnn.attacks` fools them.

Names are loaded when first used, so `import jaxnn` and `jaxnn --help` stay instant.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what `__getattr__` below gives, spelt out for editors and checkers
    from jaxnn import (
        app,
        attacks,
        check,
        combine,
        data,
        errors,
        files,
        graph,
        interop,
        layers,
        losses,
        optimizers,
        plots,
        regularize,
        rules,
        train,
    )
    from jaxnn.app.folder import load_run
    from jaxnn.attacks import Classifier
    from jaxnn.check import compare_gradients
    from jaxnn.combine import (
        freeze,
        mlp,
        parallel,
        remat,
        repeat,
        residual,
        serial,
        share,
        siamese,
        stack,
    )
    from jaxnn.costs import summary
    from jaxnn.errors import JaxnnError
    from jaxnn.interop import as_jax, from_jax, layer_from_jax
    from jaxnn.layers import Layer
    from jaxnn.rules import RULES, Rule
    from jaxnn.train import (
        TrainingError,
        TrainState,
        evaluate,
        fit,
        make_step,
        predict,
    )
    from jaxnn.train.checkpoint import load_params, save_params

__version__ = "0.1.0"

_HOME = {
    "Classifier": "attacks",
    "Layer": "layers",
    "RULES": "rules",
    "Rule": "rules",
    "TrainState": "train",
    "TrainingError": "train",
    "JaxnnError": "errors",
    "as_jax": "interop",
    "compare_gradients": "check",
    "evaluate": "train",
    "fit": "train",
    "freeze": "combine",
    "from_jax": "interop",
    "layer_from_jax": "interop",
    "load_params": "train.checkpoint",
    "load_run": "app.folder",
    "make_step": "train",
    "mlp": "combine",
    "parallel": "combine",
    "predict": "train",
    "remat": "combine",
    "repeat": "combine",
    "residual": "combine",
    "save_params": "train.checkpoint",
    "serial": "combine",
    "share": "combine",
    "siamese": "combine",
    "stack": "combine",
    "summary": "costs",
}

__all__ = [
    "RULES",
    "Classifier",
    "JaxnnError",
    "Layer",
    "Rule",
    "TrainState",
    "TrainingError",
    "app",
    "as_jax",
    "attacks",
    "check",
    "combine",
    "compare_gradients",
    "data",
    "defenses",
    "distributed",
    "errors",
    "evaluate",
    "files",
    "fit",
    "freeze",
    "from_jax",
    "graph",
    "guard",
    "interop",
    "layer_from_jax",
    "layers",
    "load_params",
    "load_run",
    "losses",
    "make_step",
    "mlp",
    "optimizers",
    "parallel",
    "plots",
    "predict",
    "regularize",
    "remat",
    "repeat",
    "residual",
    "robustness",
    "rules",
    "save_params",
    "serial",
    "share",
    "siamese",
    "stack",
    "summary",
    "train",
]


def __getattr__(name: str):
    """Import a public name from its module when it is first asked for."""
    if name in _HOME:
        return getattr(importlib.import_module(f"jaxnn.{_HOME[name]}"), name)
    if name in __all__:
        return importlib.import_module(f"jaxnn.{name}")
    raise AttributeError(f"module 'jaxnn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
