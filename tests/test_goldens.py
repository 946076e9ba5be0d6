"""What no processor changes and no commit may: integer draws, names, error texts.

    python -m tests.test_goldens            write tests/goldens.json again

`python -m tests.goldens BASE` compares everything else with another commit.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn import attacks, layers, losses, mlp, rules, serial
from jaxnn.app.config import TrainConfig
from jaxnn.attacks import ATTACKS, Classifier
from jaxnn.augment import random_flip, random_shift
from jaxnn.data import stratified_sample
from jaxnn.errors import JaxnnError
from jaxnn.optimizers import OPTIMIZERS, SCHEDULES, optimizer_by_name
from jaxnn.train import batch_order, fit

PATH = Path(__file__).with_suffix("").with_name("goldens.json")
KEY = jax.random.key(11)


def draws():
    """Whole numbers and bits that come from a key or a seed."""
    ones = jnp.ones((2, 12), jnp.float32)
    net = serial(layers.dropout(0.5), layers.dropout(0.25))
    dropped = net.forward(((), ()), ((), ()), ones, key=KEY, train=True)[0]
    image = jnp.arange(25.0, dtype=jnp.float32).reshape(1, 5, 5).repeat(4, 0) + 1
    return {
        "dropout": np.asarray(dropped != 0).astype(int).tolist(),
        "random_shift": np.asarray(random_shift(2)(KEY, image))[:, 2, 2].tolist(),
        "random_flip": np.asarray(random_flip()(KEY, image))[:, 0, 0].tolist(),
        "batch_order": batch_order(20, 6, 3).tolist(),
        "batch_order of a seed": batch_order(20, 6, 3, 5).tolist(),
        "stratified_sample": stratified_sample(np.arange(40) % 3, 7, 2).tolist(),
    }


def names():
    """What files, commands and configurations say."""
    params, state, _ = mlp([4, 3, 2], normalize=True).init(KEY, (4,))
    paths = jax.tree_util.tree_leaves_with_path((params, state))
    return {
        "activations": sorted(layers.ACTIVATIONS),
        "attacks": sorted(ATTACKS),
        "initializers": sorted(layers.INITIALIZERS),
        "layers": sorted(layers.LAYERS),
        "losses": sorted(losses.LOSSES),
        "optimizers": sorted(OPTIMIZERS),
        "rules": sorted(rules.RULES),
        "schedules": sorted(SCHEDULES),
        "config": sorted(asdict(TrainConfig())),
        "leaves of a network": [jax.tree_util.keystr(path) for path, _ in paths],
        "repr": repr(mlp([4, 3, 2], drop_rate=0.1)),
    }


def errors():
    """Texts that say where, what was got, what was expected and what to do."""
    net = layers.dense(3)
    params, state, _ = net.init(KEY, (4,))
    model = Classifier(net, params, state)
    x, y = np.full((2, 4), 0.5), np.array([0, 1])
    calls = {
        "shape": lambda: net.forward(params, state, jnp.ones((2, 5)), train=False),
        "pixels": lambda: attacks.fgsm(model, 255 * x, y, epsilon=0.1),
        "epsilon": lambda: attacks.fgsm(model, x, y, epsilon=8),
        "label": lambda: attacks.fgsm(model, x, np.array([0, 3]), epsilon=0.1),
        "batch": lambda: fit(net, (x, y), batch=3),
        "nan": lambda: fit(net, (x * np.nan, y), batch=2),
        "name": lambda: optimizer_by_name("adm"),
    }
    found = {}
    for name, call in calls.items():
        try:
            call()
        except JaxnnError as error:
            found[name] = str(error)
    return found


def found():
    """All of them, as JSON keeps them."""
    return json.loads(
        json.dumps({"draws": draws(), "names": names(), "errors": errors()})
    )


def test_draws_names_and_errors_are_the_committed_ones():
    with jax.enable_x64(False):
        assert found() == json.loads(PATH.read_text("utf-8"))


if __name__ == "__main__":
    text = json.dumps(found(), indent=1, ensure_ascii=False) + "\n"
    PATH.write_text(text, "utf-8")
    sys.exit()
