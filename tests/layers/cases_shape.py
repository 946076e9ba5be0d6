"""Cases of the layers that move elements."""

from jaxnn.layers import crop, flatten, pad, reshape, transpose, upsample

CASES = {
    "crop": [
        (crop(), (4, 3, 2), 2),
        (crop([(0, 1), (2, 0)]), (2, 3), 1),
        (crop([0]), (1,), 1),
    ],
    "flatten": [(flatten, (3, 1, 2), 2), (flatten, (4,), 1), (flatten, (), 3)],
    "pad": [
        (pad(), (2, 3, 1), 2),
        (pad([(0, 1), 2], "edge"), (2, 3), 1),
        (pad(2, "reflect"), (4, 3, 2), 2),
        (pad(3, "reflect"), (2, 1), 1),
        (pad([(1, 2)]), (1,), 1),
    ],
    "reshape": [
        (reshape(2, 3, 1), (6,), 2),
        (reshape(-1, 2), (3, 4), 1),
        (reshape(), (1, 1), 3),
    ],
    "transpose": [
        (transpose(2, 0, 1), (2, 3, 4), 2),
        (transpose(), (2, 3), 1),
        (transpose(-1, 0), (2, 3), 3),
        (transpose(), (), 2),
    ],
    "upsample": [
        (upsample(), (2, 3, 1), 2),
        (upsample((1, 3)), (2, 1, 2), 1),
        (upsample(2, "linear"), (3, 2, 2), 2),
        (upsample(3, "linear"), (4, 1), 1),
    ],
}
