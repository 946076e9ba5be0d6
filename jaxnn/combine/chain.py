"""One layer after another."""

from jaxnn.combine.parts import Parts, child_key
from jaxnn.layers import Layer, constructor, interval


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
            p, s, shape = parts.init(i, child_key(key, i), shape)
            params.append(p)
            state.append(s)
        return tuple(params), tuple(state), shape

    def forward(params, state, x, *, key=None, train):
        parts.check_count("params", params)
        parts.check_count("state", state)
        states, caches = [], []
        for i, (p, s) in enumerate(zip(params, state, strict=True)):
            x, s, cache = parts.forward(i, p, s, x, key=child_key(key, i), train=train)
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
    return Layer(init, forward, backward, name, layers, bounds=bounds)
