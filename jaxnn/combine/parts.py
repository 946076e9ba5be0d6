"""How a combinator calls its layers, `serial` above all, and how that is observed."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partialmethod
from typing import Any, NamedTuple

import jax

from jaxnn.errors import JaxnnError
from jaxnn.layers import Layer, constructor, interval

# Pairs (observer, the call that it is in). A user context is part of jit's key: no
# observed program is ever taken for the network's own, nor the other way round.
_observers = jax.make_user_context(())
SCOPES = {"forward": "fwd", "backward": "bwd"}  # as profiles name them


class Parts:
    """The layers of one combinator; every call to them goes through here.

    So an error says where in the network it arose, profiles name the work
    (`fwd/0_dense(30)`, `bwd/0_dense(30)`), and `observed` sees a network of any shape
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

    def _call(self, way: str, i: int, *given: Any, **more: Any) -> Any:
        """Run a function of layer i; an error is told where it arose."""
        layer, scope = self.layers[i], nullcontext()
        try:
            if way in SCOPES:
                layer = self._observed(i) if _observers.value else layer
                scope = jax.named_scope(f"{SCOPES[way]}/{i}_{layer.name}")
            with scope:
                return getattr(layer, way)(*given, **more)
        except BaseException as error:
            error.add_note(f"in layer {i} of {self.kind}: {self.layers[i].name}")
            raise

    # of layer i: init(i, key, in_shape), forward(i, params, state, x, key=, train=),
    # backward(i, cache, dy)
    init = partialmethod(_call, "init")
    forward = partialmethod(_call, "forward")
    backward = partialmethod(_call, "backward")

    def children(self, params: Any, state: Any, key: Any) -> list[tuple]:
        """(i, params, state, key) of each layer; raises unless all have an entry.

        Child i draws by `fold_in(key, i)`: appending a child leaves the earlier draws
        as they were.
        """
        for what, tree in (("params", params), ("state", state)):
            if not isinstance(tree, tuple | list) or len(tree) != len(self.layers):
                count = len(tree) if hasattr(tree, "__len__") else 0
                raise JaxnnError(
                    f"{self.kind}: got {what} for {count} layers, expected "
                    f"{len(self.layers)}; were they made by another network?"
                )
        return [
            (i, p, s, None if key is None else jax.random.fold_in(key, i))
            for i, (p, s) in enumerate(zip(params, state, strict=True))
        ]

    def _observed(self, i: int) -> Layer:
        layer, (_, outer) = self.layers[i], _observers.value[0]
        if not all(any(a is b for b in outer.layer.parts) for a in self.layers):
            return layer  # of a combinator that was called past the Parts around it
        observers = tuple(
            (f, Call((*call.path, i), layer, self, (*call.names, layer.name)))
            for f, call in _observers.value
        )
        inner = _observing(observers, layer)
        for f, call in reversed(observers):
            inner = f(call, inner)
        return _observing((), inner)


@constructor
def serial(*layers: Layer) -> Layer:
    """Feed each layer's output to the next; backward walks them in reverse.

    Params, state and cache are tuples, one entry a layer. Child i draws from
    `fold_in(key, i)`: appending a layer leaves the earlier draws as they were.

    >>> import jax
    >>> from jaxnn.layers import dense, relu
    >>> net = serial(dense(3), relu, dense(2))
    >>> params, state, out_shape = net.init(jax.random.key(0), (4,))
    >>> out_shape
    (2,)
    """
    parts = Parts("serial", layers)

    def init(key, in_shape):
        params, state, shape = [], [], tuple(in_shape)
        for i in range(len(layers)):
            p, s, shape = parts.init(i, jax.random.fold_in(key, i), shape)
            params.append(p)
            state.append(s)
        return tuple(params), tuple(state), shape

    def forward(params, state, x, *, key=None, train):
        states, caches = [], []
        for i, p, s, k in parts.children(params, state, key):
            x, s, cache = parts.forward(i, p, s, x, key=k, train=train)
            states.append(s)
            caches.append(cache)
        return x, tuple(states), tuple(caches)

    def backward(caches, dy):
        grads = []
        for i in reversed(range(len(layers))):
            dy, g = parts.backward(i, caches[i], dy)
            grads.append(g)
        return dy, tuple(reversed(grads))

    def bounds():
        return serial(*map(interval, layers))

    name = f"serial({len(layers)} layers)"
    return Layer(init, forward, backward, name, layers, bounds=bounds, takes="anything")


class Call(NamedTuple):
    """A call of a layer of an observed network.

    Attributes:
      path: the layer's number in each combinator from the outside in; () is the whole.
      layer: the layer, as its combinator holds it.
      parts: of that combinator; None for the whole.
      names: of the layers on that path, that of the whole first.
    """

    path: tuple[int, ...]
    layer: Layer
    parts: Parts | None
    names: tuple[str, ...]

    @property
    def label(self) -> str:
        """Such as "3 residual(serial(2 layers)) > 0 dense(4)"."""
        inner = zip(self.path, self.names[1:], strict=True)
        return " > ".join(f"{i} {name}" for i, name in inner) or self.layer.name


def observed(net: Layer, f: Callable[[Call, Layer], Layer]) -> Layer:
    """`net` with `f(call, inner)` in the place of every layer, itself included.

    `inner` does what the layer does, and those inside of it are observed too. It has
    to be `inner`, not `call.layer`, that f's layer calls for the network's own result;
    whatever else it computes is not observed. Inside of `scan` and `vmap` it sees the
    tracers of one step. f is called at every use of a layer, so the forward and the
    backward it returns may come from two calls of f.

    A combinator that does not call its layers by `Parts` counts as one layer.

    >>> from jaxnn.combine import serial
    >>> from jaxnn.layers import dense, relu
    >>> def say(call, inner):
    ...     def forward(params, state, x, *, key=None, train):
    ...         print(f"{call.label}: {x.shape}")
    ...         return inner.forward(params, state, x, key=key, train=train)
    ...     return inner._replace(forward=forward)
    >>> net = observed(serial(relu, dense(2)), say)
    >>> _ = net.forward(*net.init(jax.random.key(0), (3,))[:2], jax.numpy.ones((1, 3)),
    ...                 train=False)
    serial(2 layers): (1, 3)
    0 relu: (1, 3)
    1 dense(2): (1, 3)
    """
    call = Call((), net, None, (net.name,))

    def layer():
        return _observing((), f(call, _observing((*_observers.value, (f, call)), net)))

    def forward(params, state, x, *, key=None, train):
        return layer().forward(params, state, x, key=key, train=train)

    def backward(cache, dy):
        return layer().backward(cache, dy)

    return net._replace(forward=forward, backward=backward)


def _observing(observers: tuple, layer: Layer) -> Layer:
    """`layer` at work under these observers.

    Not where it names no parts: each context has traced programs of its own, so what a
    layer without parts computes would be traced anew for each place of the network.
    """
    if observers and not layer.parts:
        return layer

    def forward(params, state, x, *, key=None, train):
        with _observers(observers):
            return layer.forward(params, state, x, key=key, train=train)

    def backward(cache, dy):
        with _observers(observers):
            return layer.backward(cache, dy)

    return layer._replace(forward=forward, backward=backward)
