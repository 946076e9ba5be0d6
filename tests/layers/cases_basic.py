"""Cases of the dense, normalising, noisy and input layers."""

from jaxnn.layers import (
    batch_norm,
    dense,
    dropout,
    gaussian_noise,
    spatial_dropout,
    standardize,
)

CASES = {
    "batch_norm": [(batch_norm(), (3,), 5), (batch_norm(0.5, 1e-3), (2, 3, 1), 2)],
    "dense": [
        (dense(3), (4,), 5),
        (dense(1), (1,), 1),
        (dense(2, "xavier", bias=False), (3,), 2),
        (dense(2, "lecun", bias="normal"), (3, 1, 5), 2),
    ],
    "dropout": [(dropout(0.3), (7,), 3), (dropout(0.0), (3,), 2)],
    "gaussian_noise": [(gaussian_noise(0.3), (7,), 3), (gaussian_noise(0), (3,), 2)],
    "spatial_dropout": [
        (spatial_dropout(0.5), (3, 2, 4), 3),
        (spatial_dropout(0.3), (5,), 2),
        (spatial_dropout(0.0), (3,), 2),
    ],
    "standardize": [(standardize(0.1307, 0.3081), (2, 3, 1), 3)],
}
