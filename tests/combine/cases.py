"""Networks of every combinator, in every position of one in another."""

from jaxnn import layers as nn
from jaxnn import rules
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
from jaxnn.layers import conv, dense, dropout, flatten, relu, tanh

NOISY = serial(dense(3, bias=False), nn.batch_norm(), dropout(0.3), tanh)
PLAIN = serial(dense(3), tanh)


def twice(shared):
    return serial(shared, nn.sigmoid, shared)


def shared_across_combinators(shared):
    """In a stack, in a remat, in a branch, and by itself."""
    return serial(
        stack(serial(shared, tanh, dense(3)), 2),
        remat(serial(shared, tanh)),
        parallel(serial(shared, dense(2)), dropout(0.3), merge="concatenate"),
        dense(3),
        shared,
    )


def nested_shares(outer):
    """A share whose shared layer holds another shared layer."""
    return serial(
        outer,
        share(serial(dense(3), outer, tanh), lambda inner: serial(inner, outer, inner)),
        share(outer, twice),
    )


def down(*layers):
    """To half the resolution, without a bias ahead of its batch norm."""
    return serial(conv(2, 3, stride=2, bias=False), nn.batch_norm(), *layers)


def mean(a, b):
    return (a + b) / 2, ()


def halves(_, dy):
    return dy / 2, dy / 2


AVERAGE = rules.Rule("average", mean, halves)  # a user's
# name -> (layer, in_shape, batch)
NETWORKS = {
    "mlp, xor": (
        mlp([2, 2, 1], "tanh", init="normal", bias="normal", output="sigmoid"), (2,), 4
    ),
    "mlp, noisy": (mlp([6, 5, 3], normalize=True, drop_rate=0.3), (3, 2), 5),
    "serial of nothing": (serial(), (3,), 2),
    "serial, images": (
        serial(nn.standardize(0.1, 0.3), nn.batch_norm(), dense(2), flatten, dense(3)),
        (3, 1, 2), 2,
    ),
    "residual of residual": (residual(residual(dense(3))), (3,), 2),
    "residual": (residual(NOISY), (3,), 4),
    "residual, projection": (residual(serial(dense(2), tanh), dense(2)), (3,), 4),
    "residual, conv": (residual(down(relu, conv(2)), down()), (5, 3, 2), 3),
    "sum": (parallel(PLAIN, dense(3), tanh), (3,), 4),
    "sum of one": (parallel(dense(2)), (3,), 1),
    "multiply": (parallel(PLAIN, dense(3), nn.sigmoid, merge="multiply"), (3,), 4),
    "maximum": (parallel(dense(3), tanh, dense(3), merge="maximum"), (3,), 9),
    "concatenate": (
        parallel(dense(1), NOISY, dense(2), merge="concatenate"), (3,), 4
    ),
    "concatenate, images": (
        parallel(conv(2, 1), nn.max_pool(3, 1, "SAME"), merge="concatenate"),
        (3, 4, 1), 2,
    ),
    "difference": (parallel(PLAIN, dense(3), merge=rules.sub), (3,), 4),
    "average": (parallel(dense(3), relu, merge=AVERAGE), (3,), 4),
    "branches in branches": (
        parallel(parallel(dense(1), dense(2), merge="concatenate"), tanh), (3,), 2
    ),
    "stack": (stack(PLAIN, 3), (3,), 4),
    "stack of one": (stack(PLAIN, 1), (3,), 1),
    "stack, noisy": (stack(residual(NOISY), 3), (3,), 4),
    "stack of a stack": (stack(stack(PLAIN, 2), 2), (3,), 2),
    "stack, no parameters": (stack(tanh, 3), (2, 2), 2),
    "remat": (remat(serial(NOISY, dense(2))), (3,), 4),
    "remat of remat": (serial(remat(remat(PLAIN)), dense(2)), (3,), 4),
    "stack of remat": (stack(remat(NOISY), 3), (3,), 4),
    "remat of stack": (remat(stack(NOISY, 3)), (3,), 4),
    "repeat": (repeat(NOISY, 3), (3,), 4),
    "repeat once": (repeat(PLAIN, 1), (3,), 1),
    "repeat of stack, stack of repeat": (
        serial(repeat(stack(PLAIN, 2), 2), stack(repeat(remat(PLAIN), 2), 2)), (3,), 4
    ),
    "freeze": (serial(dense(3), freeze(NOISY), dense(2)), (2,), 4),
    "freeze in a stack": (stack(serial(freeze(dense(3)), PLAIN), 2), (3,), 4),
    "freeze in a remat": (remat(serial(freeze(dense(3)), tanh)), (4,), 2),
    "share": (share(NOISY, twice), (3,), 4),
    "share, once": (share(dense(2), lambda d: d), (3,), 2),
    "share, across combinators": (share(dense(3), shared_across_combinators), (3,), 4),
    "share, nested": (share(share(dense(3), twice), nested_shares), (3,), 4),
    "share in a stack": (stack(share(dense(3), twice), 2), (3,), 4),
    "share, frozen": (
        serial(share(freeze(NOISY), twice), freeze(share(NOISY, twice)), dense(1)),
        (3,), 4,
    ),
    "share, images of two sizes": (
        share(conv(1, 3, bias=False), lambda c: serial(c, nn.max_pool(2), c, flatten)),
        (4, 5, 1), 2,
    ),
    "siamese": (siamese(NOISY), (2, 3), 2),
    "siamese, difference": (
        serial(siamese(serial(flatten, PLAIN), merge=rules.sub), dense(1)),
        (2, 2, 2), 3,
    ),
    "siamese, three": (siamese(nn.leaky_relu(), merge="sum"), (3, 2), 1),
    "siamese, one": (siamese(dense(2)), (1, 3), 2),
}  # fmt: skip

# all of them in one, for what is not worth a program for each
EVERYTHING = (
    serial(
        stack(remat(residual(NOISY)), 2),
        parallel(dense(3), freeze(NOISY), merge="multiply"),
        residual(repeat(PLAIN, 2), dense(3)),
        share(dense(3), lambda d: serial(d, stack(serial(d, tanh), 2), dropout(0.2))),
        flatten,
        dense(2),
    ),
    (3,), 4,
)  # fmt: skip
