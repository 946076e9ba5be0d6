"""The one exception for what a user can put right, and the look-up that raises it."""

import difflib
import functools
import importlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

OTHER_WORDS = {
    "learning_rate": "lr", "learning_rate_init": "lr", "batch_size": "batch",
    "hidden": "layers", "hidden_layers": "layers", "hidden_layer_sizes": "layers",
    "units": "layers", "num_epochs": "epochs", "n_epochs": "epochs",
    "nb_epoch": "epochs", "nb_epochs": "epochs",
    "max_iter": "epochs", "eps": "epsilon", "dataset": "data", "optim": "optimizer",
    "scheduler": "schedule", "lr_schedule": "schedule", "criterion": "loss",
    "weight_init": "init", "initializer": "init", "random_seed": "seed",
    "output_dir": "out", "save_dir": "out", "early_stopping": "patience",
    "grad_clip": "clip_norm", "gradient_clip": "clip_norm", "gpus": "devices",
    "verbose": "quiet", "drop_rate": "dropout", "validation_data": "validation",
    "val_size": "validation", "validation_size": "validation", "num_steps": "steps",
}  # fmt: skip
"""What other libraries call a setting -> what it is called here."""
OTHER_NAMES = {
    "sparse_categorical_crossentropy": "softmax_cross_entropy",
    "categorical_crossentropy": "softmax_cross_entropy",
    "cross_entropy": "softmax_cross_entropy", "crossentropy": "softmax_cross_entropy",
    "binary_crossentropy": "sigmoid_cross_entropy", "bce": "sigmoid_cross_entropy",
    "mean_squared_error": "mse", "mean_absolute_error": "mae", "nll_loss": "nll",
    "glorot_uniform": "xavier_uniform", "glorot": "xavier", "he_normal": "he",
    "kaiming": "he", "silu": "swish",
}  # fmt: skip
"""The same of values that have a name."""


class JaxnnError(ValueError):
    """Something the user can put right: the message says where, got, expected, fix.

    The command line prints the message alone; anything else keeps its traceback.
    """

    def add_note(self, note: str) -> None:
        """Keep `note`, unless it is JAX's about the frames that it left out."""
        if "JAX has removed its internal frames" not in note:
            super().add_note(note)


def first_line(error: BaseException) -> str:
    """The first line of an error's words, or its name."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def need(extra: str, *modules: str) -> None:
    """Raise unless the packages of an extra, or the one of its name, are installed."""
    for module in modules or (extra,):
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise JaxnnError(
                f"{extra}: the package {module} is not installed; "
                f"pip install 'jaxnn[{extra}]'"
            ) from error


def require(fits: Any, where: str, name: str, value: Any, expected: str) -> None:
    """Raise a `JaxnnError` unless the setting `name` of `where` fits.

    >>> strength = 0.1
    >>> require(strength >= 0, "l2", "strength", strength, ">= 0")
    """
    if not fits:
        shown = f"{value:g}" if isinstance(value, float) else repr(value)
        raise JaxnnError(f"{where}: got {name}={shown}, expected {expected}")


def lookup(kind: str, name: str, table: Mapping[str, T]) -> T:
    """`table[name]`, or a `JaxnnError` that lists the valid names.

    >>> lookup("loss", "mse", {"mse": 1})
    1
    """
    if name in table:
        return table[name]
    word = str(name).lower()
    meant = [m for m in (word, OTHER_NAMES.get(word)) if m in table]
    near = meant or difflib.get_close_matches(word, table, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise JaxnnError(
        f"unknown {kind} {name!r}.{hint} Valid names: {', '.join(sorted(table))}"
    )


def known_words(function: Callable[P, T]) -> Callable[P, T]:
    """Decorate a function: a keyword that it has not raises, and says what was meant.

    >>> known_words(lambda optimizer: None)(optimiser="adam")
    Traceback (most recent call last):
    jaxnn.errors.JaxnnError: <lambda>: got optimiser=, did you mean optimizer=?
    """
    import inspect  # not above: `jaxnn --help` is there at once

    parameters = inspect.signature(function).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return function
    names = {p.name for p in parameters if p.kind is not p.VAR_POSITIONAL}

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        for name in kwargs:
            if name not in names:
                raise JaxnnError(f"{function.__name__}: {unexpected(name, names)}")
        return function(*args, **kwargs)

    return call


def unexpected(name: str, names: Iterable[str]) -> str:
    """What to say of a keyword `name` that is none of `names`."""
    names = sorted(names)
    meant = [m for m in (OTHER_WORDS.get(name),) if m in names]
    near = meant or difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]}=?" if near else f"it takes {', '.join(names)}"
    if OTHER_WORDS.get(name) == "lr" and "lr" not in names and "optimizer" in names:
        hint = "give it to the optimizer: optimizer=optax.adam(0.001)"
    return f"got {name}=, {hint}"
