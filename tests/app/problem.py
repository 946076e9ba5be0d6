"""A small data set on disk, and what the command line says of an error."""

import numpy as np

from jaxnn.cli import main
from jaxnn.data import write_idx
from tests.train.problem import pixels

TINY = ("--layers", "8", "--epochs", "2", "--batch", "20", "--validation", "40")


def write_folder(folder, side=28, count=240, **change):
    """Four IDX files of a small problem."""
    folder.mkdir(exist_ok=True)
    (x, y), (xt, yt) = pixels(count, side), pixels(80, side, seed=1)
    arrays = {
        "train-images-idx3-ubyte.gz": x,
        "train-labels-idx1-ubyte.gz": y.astype(np.uint8),
        "t10k-images-idx3-ubyte": xt, "t10k-labels-idx1-ubyte": yt.astype(np.uint8),
    } | change  # fmt: skip
    for name, array in arrays.items():
        write_idx(folder / name, array)
    return folder


def errors(capsys, *words):
    """What `jaxnn WORDS` prints to stderr; it must fail with status 2."""
    assert main(list(map(str, words))) == 2
    text = capsys.readouterr().err
    assert text.startswith("jaxnn: error: ")
    assert "Traceback" not in text
    return text
