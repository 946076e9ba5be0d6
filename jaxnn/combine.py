"""Networks out of layers: the result is a Layer again, so combinators nest freely."""

from collections.abc import Sequence

import jax

from jaxnn.errors import JaxnnError, lookup
from jaxnn.layers import (
    ACTIVATIONS,
    Layer,
    batch_norm,
    dense,
    dropout,
    flatten,
    log_softmax,
)
from jaxnn.layers.initializers import Initializer


def serial(*layers: Layer) -> Layer:
    """Feed each layer's output to the next; backward walks them in reverse.

    Params, state and cache are tuples, one entry a layer. Child i draws from
    `fold_in(key, i)`: appending a layer leaves the earlier draws as they were.

    >>> from jaxnn.layers import dense, relu
    >>> net = serial(dense(3), relu, dense(2))
    >>> params, state, out_shape = net.init(jax.random.key(0), (4,))
    >>> out_shape
    (2,)
    """

    for layer in layers:
        if not isinstance(layer, Layer):
            raise JaxnnError(
                f"serial: got {type(layer).__name__}, expected layers; write "
                "serial(*layers) for a list, dense(10) rather than dense"
            )

    def init(key, in_shape):
        params, state, shape = [], [], tuple(in_shape)
        for i, layer in enumerate(layers):
            with _located(i, layer):
                p, s, shape = layer.init(jax.random.fold_in(key, i), shape)
            params.append(p)
            state.append(s)
        return tuple(params), tuple(state), shape

    def forward(params, state, x, *, key=None, train):
        states, caches = [], []
        _check_count("params", params)
        _check_count("state", state)
        for i, (layer, p, s) in enumerate(zip(layers, params, state, strict=True)):
            k = None if key is None else jax.random.fold_in(key, i)
            with _located(i, layer), jax.named_scope(f"fwd/{i}_{layer.name}"):
                x, s, cache = layer.forward(p, s, x, key=k, train=train)
            states.append(s)
            caches.append(cache)
        return x, tuple(states), tuple(caches)

    def backward(caches, dy):
        grads = []
        for i in reversed(range(len(layers))):
            with jax.named_scope(f"bwd/{i}_{layers[i].name}"):
                dy, g = layers[i].backward(caches[i], dy)
            grads.append(g)
        return dy, tuple(reversed(grads))

    def _check_count(what, tree):
        if len(tree) != len(layers):
            raise JaxnnError(
                f"serial: got {what} for {len(tree)} layers, expected {len(layers)}; "
                "were they made by another network?"
            )

    return Layer(init, forward, backward, f"serial({len(layers)} layers)", layers)


class _located:  # noqa: N801 - reads as a statement
    """Say in which layer of a serial an error arose, innermost first."""

    def __init__(self, i, layer):
        self.note = f"in layer {i} of serial: {layer.name}"

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if error is not None:
            error.add_note(self.note)


def residual(inner: Layer) -> Layer:
    """y = x + inner(x): two paths forward, so two cotangents are summed backward.

    Source: He et al. 2016.

    Raises:
      JaxnnError: `inner` changes the shape.
    """

    def check_same(in_shape, out_shape):
        if tuple(out_shape) != tuple(in_shape):
            raise JaxnnError(
                f"residual({inner.name}): x has shape {tuple(in_shape)} but inner "
                f"makes {tuple(out_shape)}, expected the same to add them"
            )

    def init(key, in_shape):
        params, state, out_shape = inner.init(key, in_shape)
        check_same(in_shape, out_shape)
        return params, state, out_shape

    def forward(params, state, x, *, key=None, train):
        y, state, cache = inner.forward(params, state, x, key=key, train=train)
        check_same(x.shape, y.shape)
        return x + y, state, cache

    def backward(cache, dy):
        dx, dparams = inner.backward(cache, dy)
        return dy + dx, dparams

    return Layer(init, forward, backward, f"residual({inner.name})", (inner,))


def mlp(
    widths: Sequence[int],
    activation: str | Layer = "relu",
    *,
    init: str | Initializer = "he",
    bias: bool | str | Initializer = True,
    normalize: bool = False,
    drop_rate: float = 0.0,
    output: str | Layer | None = None,
) -> Layer:
    """A multilayer perceptron: dense layers of `widths[1:]` with `activation` between.

    Args:
      widths: features in, hidden widths, outputs: `[784, 30, 30, 10]`.
      activation: name or layer after each hidden dense layer.
      init: initialiser of the weights, a name or a function.
      bias: as in `dense`; a hidden layer before batch norm has none (beta is one).
      normalize: batch norm between dense and activation.
      drop_rate: dropout after each activation.
      output: name or layer after the last dense layer; None leaves logits.

    The input is flattened first, so (B, 28, 28) images may come as they are.

    Raises:
      JaxnnError: fewer than two widths, an unknown name, or an input whose features
        are not `widths[0]`.
    """
    widths = tuple(widths)
    if len(widths) < 2 or any(w < 1 for w in widths):
        raise JaxnnError(
            f"mlp: got widths {list(widths)}, expected [inputs, hidden..., outputs], "
            "each at least 1"
        )
    layers = [flatten]
    for width in widths[1:-1]:
        layers += dense_block(
            width,
            activation,
            init=init,
            bias=bias,
            normalize=normalize,
            drop_rate=drop_rate,
        )
    layers.append(dense(widths[-1], init, bias))
    if output is not None:
        layers.append(output_layer(output))
    net = serial(*layers)

    def checked_init(key, in_shape):
        params, state, out_shape = net.init(key, in_shape)
        features = params[1]["w"].shape[0]
        if features != widths[0]:
            raise JaxnnError(
                f"mlp({list(widths)}): in_shape {tuple(in_shape)} has {features} "
                f"features, expected widths[0] = {widths[0]}"
            )
        return params, state, out_shape

    return net._replace(init=checked_init, name=f"mlp({list(widths)})")


def dense_block(
    width: int,
    activation: str | Layer,
    *,
    init: str | Initializer = "he",
    bias: bool | str | Initializer = True,
    normalize: bool = False,
    drop_rate: float = 0.0,
) -> list[Layer]:
    """The layers of one hidden layer: dense, batch norm, activation, dropout.

    Arguments as in `mlp`.
    """
    layers = [dense(width, init, False if normalize else bias)]
    if normalize:
        layers.append(batch_norm())
    layers.append(activation_layer(activation))
    if drop_rate:
        layers.append(dropout(drop_rate))
    return layers


def output_layer(output: str | Layer) -> Layer:
    """What may end a network: an activation, or `log_softmax` for the `nll` loss."""
    return log_softmax if output == "log_softmax" else activation_layer(output)


def activation_layer(activation: str | Layer) -> Layer:
    """The activation of that name, or `activation` itself if it is a layer.

    Raises:
      JaxnnError: unknown name; lists the valid ones.
    """
    if isinstance(activation, Layer):
        return activation
    return lookup("activation", activation, ACTIVATIONS)()
