"""How a combinator calls the layers it is made of."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jax

from jaxnn.errors import JaxnnError
from jaxnn.layers import Layer

Watcher = Callable[["Parts", int, tuple], Any]
_watcher: ContextVar[Watcher | None] = ContextVar("watcher", default=None)


class Parts:
    """The layers of one combinator; every call to them goes through here.

    So an error says where in the network it arose, profiles name the work
    (`fwd/0_dense(30)`, `bwd/0_dense(30)`), and `watch` sees a network of any shape
    layer by layer.

    Attributes:
      kind: name of the combinator, for errors.
      layers: its layers.
      times: how often one traced call runs: the length of the scan around it.
      tied: whether those calls take the same parameters.
      frozen: whether the gradients of the parameters go nowhere.
      recomputed: whether the cache of a forward call is thrown away.
      shared: a layer as it stands inside, in any number of places that have one set
        of parameters, and the same layer as it came; () if there is none.
    """

    def __init__(
        self,
        kind: str,
        layers: Sequence[Layer],
        *,
        times: int = 1,
        tied: bool = False,
        frozen: bool = False,
        recomputed: bool = False,
        shared: tuple[Layer, ...] = (),
    ):
        for layer in layers:
            if not isinstance(layer, Layer):
                raise JaxnnError(
                    f"{kind}: got {type(layer).__name__}, expected layers; write "
                    "serial(*layers) for a list, dense(10) rather than dense"
                )
        self.kind, self.layers = kind, tuple(layers)
        self.times, self.tied = times, tied
        self.frozen, self.recomputed, self.shared = frozen, recomputed, shared

    def init(self, i: int, key, in_shape) -> tuple[Any, Any, tuple[int, ...]]:
        """`init` of layer i."""
        with _located(self, i):
            return self.layers[i].init(key, tuple(in_shape))

    def forward(self, i: int, params, state, x, *, key, train: bool):
        """`forward` of layer i."""
        layer, watcher = self.layers[i], _watcher.get()
        with _located(self, i), jax.named_scope(f"fwd/{i}_{layer.name}"):
            if watcher is not None:
                return watcher(self, i, (params, state, x, key, train))
            return layer.forward(params, state, x, key=key, train=train)

    def backward(self, i: int, cache, dy):
        """`backward` of layer i."""
        layer = self.layers[i]
        with _located(self, i), jax.named_scope(f"bwd/{i}_{layer.name}"):
            return layer.backward(cache, dy)

    def check_count(self, what: str, tree: Any) -> None:
        """Raise unless `tree` is a tuple with an entry for each layer."""
        if not isinstance(tree, tuple | list) or len(tree) != len(self.layers):
            count = len(tree) if hasattr(tree, "__len__") else 0
            raise JaxnnError(
                f"{self.kind}: got {what} for {count} layers, expected "
                f"{len(self.layers)}; were they made by another network?"
            )


def child_key(key, i):
    """The key of child i: appending a child leaves the earlier draws as they were."""
    return None if key is None else jax.random.fold_in(key, i)


@contextmanager
def watch(watcher: Watcher) -> Iterator[None]:
    """Hand every forward call of a part to `watcher`, in this thread, in this block.

    `watcher(parts, i, (params, state, x, key, train))` has to make the call itself and
    return what it returns. Inside `scan` and `vmap` it sees the tracers of one step.
    """
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


class _located:  # noqa: N801 - reads as a statement
    """Say in which layer of a combinator an error arose, innermost first."""

    def __init__(self, parts, i):
        self.parts, self.i = parts, i

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if error is not None:
            name = self.parts.layers[self.i].name
            error.add_note(f"in layer {self.i} of {self.parts.kind}: {name}")
