"""What attacks see of a network: its logits, and the gradient for its inputs.

A last layer of softmax, log-softmax or sigmoid changes no decision, but it flattens the
gradient: in float32 a network that is sure has none left behind it. So where an attack
raises a loss of logits, such a network is attacked before that layer, and one output z
stands for two classes with the logits (0, z).
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxnn import programs
from jaxnn.attacks.core import dlr, margin
from jaxnn.combine import serial, split_last
from jaxnn.errors import JaxnnError
from jaxnn.layers import Layer, log_softmax, pointwise, sigmoid, softmax
from jaxnn.layers.core import value
from jaxnn.losses import (
    Loss,
    RegisteredLoss,
    is_correct,
    softmax_cross_entropy,
    yes_above,
)
from jaxnn.rules import Rule
from jaxnn.rules.products import policy
from jaxnn.tree import map_batches


@partial(
    jax.tree_util.register_dataclass,
    data_fields=("params", "state", "key"),
    meta_fields=("net", "draws", "gradients", "precision"),
)
@dataclass(frozen=True, eq=False)
class Classifier:
    """A network in evaluation mode, bound to its parameters: one argument of a program.

    `logits`, `value_and_gradient` and `vjp` can be traced; networks of one structure
    share compiled programs. `outputs`, `correct` and `gradient` take any number of
    images and work batch by batch. It is never trained and never saved.

    Attributes:
      net: the network; its first layer does any normalization.
      params: its parameters.
      state: its state.
      key: of a network that is random in evaluation, too (input noise, say): what it
        draws from, anew for every point that is looked at; None is `random.key(0)`.
      draws: so many outputs of such a network are averaged, and their gradients: the
        expectation over its randomness is attacked (Athalye et al. 2018, EOT).
      gradients: whether its input gradient can be had; `black_box` has none.
      precision: "bfloat16": what attacks within a budget follow is made of products
        whose operands are rounded to it, see `jaxnn.fit`. `outputs`, `correct` and
        `gradient`, which judge what they found, are not; nor is what an early stop
        sees. None: as where it is traced.
    """

    net: Layer
    params: Any = field(repr=False)
    state: Any = field(default=(), repr=False)
    key: Any = field(default=None, repr=False)
    draws: int = 16
    gradients: bool = True
    precision: str | None = None

    @property
    def exact(self) -> "Classifier":
        """Itself, as it judges: without a precision of its own."""
        return replace(self, precision=None)

    def logits(self, x: Array) -> Array:
        """Outputs for x (B, ...): (B, N)."""
        return self.vjp(x)[0]

    def vjp(self, x: Array) -> tuple[Array, Callable[[Array], Array]]:
        """Outputs (B, N), and the function that takes their gradient back to x."""

        rounded = {} if self.precision is None else {"precision": self.precision}

        def forward(key):
            with policy(**rounded):
                y, _, cache = self.net.forward(
                    self.params, self.state, x, key=key, train=False
                )
            return y, cache

        def backward(cache, dpred):
            with policy(**rounded):
                # the parameters' gradients are not used: XLA drops them
                return self.net.backward(cache, dpred)[0]

        if self.key is None:
            pred, cache = forward(None)
            return pred, lambda dpred: backward(cache, dpred)
        # drawn anew for every x, so that no draw is learned by heart
        bits = lax.bitcast_convert_type(x.sum().astype(jnp.float32), jnp.uint32)
        keys = jax.random.split(jax.random.fold_in(self.key, bits), self.draws)

        # one draw after another: jaxlib 0.10 on a CPU gets the mean over a vmapped
        # product of broadcast weights wrong, and the caches of all draws are large
        def pull(dpred):
            return lax.map(lambda k: backward(forward(k)[1], dpred), keys).mean(0)

        return lax.map(lambda k: forward(k)[0], keys).mean(0), pull

    def facts(self, x: Any) -> "Facts":
        """What it is for images like x."""
        if not self.gradients:  # a black box answers as announced, or says so here
            self.net.init(None, x.shape[1:])
        leaves, tree = jax.tree.flatten(replace(self, key=None))
        shapes = tuple(
            jax.ShapeDtypeStruct(jnp.shape(a), jnp.result_type(a)) for a in leaves
        )
        return _facts(tree, shapes, x.shape[1:], jnp.result_type(x))

    def keyed(self, x: Any) -> "Classifier":
        """Itself, with a key where it cannot do without one."""
        if self.key is not None or not self.facts(x).random:
            return self
        return replace(self, key=jax.random.key(0))

    def value_and_gradient(
        self, x: Array, y: Array, loss: Loss
    ) -> tuple[Array, Array, Array]:
        """Loss of each image (B,), its gradient for x (as x), and the outputs (B, N).

        The gradient comes from the hand-written backward passes; row i is the gradient
        of image i's own loss.
        """
        pred, pull = self.vjp(x)
        values, dpred = loss(pred, y, reduction="none")
        return values, pull(dpred), pred

    def outputs(self, x: Any, batch: int | None = None) -> np.ndarray:
        """Outputs (N, classes) for all of x, see `map_batches`."""
        return map_batches(partial(_logits, self.exact.keyed(x)), x, batch=batch)

    def correct(self, x: Any, y: Any, batch: int | None = None) -> np.ndarray:
        """Which images (N,) it classifies as labeled; NaN is no answer."""
        out = self.outputs(x, batch)
        right = is_correct(out, np.asarray(y), yes_above(self.net))
        return right & ~np.isnan(out).any(-1)

    def gradient(
        self, x: Any, y: Any, loss: Loss = softmax_cross_entropy,
        batch: int | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
        """Loss of each image (N,) and its gradient for x, by the hand-written rules."""
        gradient = partial(_gradient, loss, self.exact.keyed(x))
        return map_batches(gradient, x, y, batch=batch)


class Facts(NamedTuple):
    """How many outputs a network has, and whether it draws in evaluation, too."""

    classes: int
    random: bool


@lru_cache(maxsize=256)
def _facts(tree, shapes, shape, dtype):
    model = jax.tree.unflatten(tree, shapes)
    image = jax.ShapeDtypeStruct((1, *shape), dtype)
    try:
        out = jax.eval_shape(Classifier.logits, model, image)
        return Facts(out.shape[-1], False)
    except (TypeError, ValueError):  # it needs a key; if not, it fails with one, too
        keyed = replace(model, key=jax.eval_shape(jax.random.key, 0))
        try:
            out = jax.eval_shape(Classifier.logits, keyed, image)
        except (TypeError, ValueError):
            out = None
        if out is None and _is_stacked(model, shape):
            raise JaxnnError(
                "Classifier: got params and state with an axis of seeds in front; "
                "expected those of one network, such as the first of them: "
                "jax.tree.map(lambda a: a[0], (params, state))"
            ) from None
        if out is None:
            raise
        return Facts(out.shape[-1], True)


def _is_stacked(model, shape):
    def init(key):
        return model.net.init(key, shape)[:2]

    like = jax.tree.leaves(jax.eval_shape(init, jax.random.key(0)))
    given = jax.tree.leaves((model.params, model.state))
    return len(like) == len(given) and all(
        b.shape[1:] == a.shape for a, b in zip(like, given, strict=True)
    )


def black_box(
    function: Callable[[Any], Any], classes: int, *, traced: bool = False
) -> Classifier:
    """A classifier of any callable, x (B, ...) -> logits (B, classes): no gradients.

    >>> model = black_box(lambda x: np.stack([x.mean(1), 0.4 + 0 * x[:, 0]], 1), 2)
    >>> model.correct(np.full((3, 5), 0.5, np.float32), np.array([0, 0, 1]))
    array([ True,  True, False])

    Attacks that see outputs only take it; those along the gradient refuse it.

    Args:
      function: called on the host with NumPy arrays, batches of any size.
      classes: how many logits it gives an image.
      traced: it is made of JAX's operations, and becomes part of the attack's program.
        On the host it must not use JAX: it could wait for the program that called it.

    Raises:
      JaxnnError: when it is first attacked and gives other than floats (B, classes).
    """

    def call(x):
        found = function(x if traced else np.asarray(x))
        found = found if traced else np.asarray(found)
        floats = jnp.issubdtype(found.dtype, jnp.floating)
        if found.shape != (len(x), classes) or not floats:
            raise JaxnnError(
                f"black_box: the function gave {found.dtype} {found.shape} for images "
                f"{x.shape}, expected float logits {(len(x), classes)}"
            )
        return found.astype(x.dtype)

    @lru_cache
    def init(key, in_shape):
        del key
        call(np.zeros((1, *in_shape), jax.dtypes.canonicalize_dtype(float)))
        return (), (), (classes,)

    def forward(params, state, x, *, key=None, train):
        del params, key, train
        if traced:
            return call(x), state, ()
        like = jax.ShapeDtypeStruct((len(x), classes), x.dtype)
        return jax.pure_callback(call, like, x, vmap_method="sequential"), state, ()

    def backward(cache, dy):
        raise JaxnnError("black_box: it has no gradients")

    name = f"black_box({classes})"
    return Classifier(Layer(init, forward, backward, name), (), gradients=False)


def exact() -> AbstractContextManager:
    """Products of float32 traced in here keep all its digits, as on a CPU.

    A GPU rounds operands to 10 bits: good for an attack's steps, not for saying who was
    fooled.
    """
    return jax.default_matmul_precision("highest")


@programs.jit
def _logits(model, x):
    with exact():
        return model.logits(x)


@partial(programs.jit, static_argnums=0)
def _gradient(loss, model, x, y):
    with exact():
        return model.value_and_gradient(x, y, loss)[:2]


OF_LOGITS = (softmax_cross_entropy, margin, dlr)
"""Losses of logits; any other sees the outputs as they are."""


def is_of_logits(loss: Any) -> bool:
    """Whether a loss, whatever its settings, is one of logits."""
    while isinstance(loss, partial):
        loss = loss.func
    return (loss.plain if isinstance(loss, RegisteredLoss) else loss) in OF_LOGITS


def to_logits(model: Classifier, x: Any, y: Any) -> tuple[Classifier, Any]:
    """The network's decisions as logits of two classes or more, and y as their labels.

    The labels of a network of one output, where yes is above 0, become 0 and 1. Drawing
    networks get a key.
    """
    model = model.keyed(x)
    classes = model.facts(x).classes
    end = split_last(model.net)
    if end.last in (softmax, log_softmax, sigmoid):
        params, state = end.split(model.params)[0], end.split(model.state)[0]
        model = replace(model, net=end.before, params=params, state=state)
    if classes != 1:
        return model, y
    params, state = (model.params, ()), (model.state, ())
    two = serial(model.net, two_logits)
    return replace(model, net=two, params=params, state=state), (y > 0) * 1


_zero_before = Rule(
    "two_logits",
    lambda z: (jnp.concatenate([jnp.zeros_like(z), z], axis=-1), ()),
    lambda _, dy: (dy[..., 1:],),
)
two_logits = value(f"{__name__}:two_logits", pointwise(_zero_before))
"""One output z as the logits (0, z) of no and yes."""
