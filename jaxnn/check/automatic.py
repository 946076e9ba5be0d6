"""The same network with its backward pass made by JAX: the twin to compare with."""

import jax

from jaxnn.layers import Layer
from jaxnn.losses import Loss


def automatic(net: Layer) -> Layer:
    """`net` with reverse-mode AD of its forward in place of the hand-written backward.

    The cache is the pull-back JAX makes, so training one step with it computes what
    `jax.grad` of the whole would. It does not pass through `scan` or `remat` as data.
    """

    def forward(params, state, x, *, key=None, train):
        def run(p, x):
            y, new_state, _ = net.forward(p, state, x, key=key, train=train)
            return y, new_state

        y, pull_back, new_state = jax.vjp(run, params, x, has_aux=True)
        return y, new_state, pull_back

    def backward(pull_back, dy):
        dparams, dx = pull_back(dy)
        return dx, dparams

    return Layer(net.init, forward, backward, f"automatic({net.name})", (net,))


def automatic_loss(loss: Loss) -> Loss:
    """`loss` with its gradient made by JAX from its value."""

    def differentiated(pred, target):
        return jax.value_and_grad(lambda p: loss(p, target)[0])(pred)

    return differentiated
