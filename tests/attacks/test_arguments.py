"""Whatever an attack is given, it takes it or says what it expected."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn import Classifier, attacks
from jaxnn.attacks import ATTACKS
from jaxnn.errors import JaxnnError
from jaxnn.layers import dense
from tests.attacks.problem import settings
from tests.compiling import compiling

KEY = jax.random.key(0)
NET = dense(3)
W = np.random.default_rng(0).standard_normal((4, 3))
PARAMS, STATE = {"w": W, "b": np.zeros(3)}, ()  # NumPy's: nothing compiles on import
MODEL = Classifier(NET, PARAMS, STATE)
X, Y = np.full((2, 4), 0.5), np.array([0, 1])
GRAY = np.full((2, 4, 4), 0.5)


class Frame:
    """What a table of pandas or a tensor of PyTorch is to NumPy."""

    def __init__(self, value):
        self.value = value

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.value, dtype)


class Tracked:
    """A tensor that must not leave its library."""

    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("call detach() first")


def run(name, **change):
    given = settings(name) | change
    x, y = given.pop("x", X), given.pop("y", Y)
    return ATTACKS[name].run(given.pop("model", MODEL), x, y, **given)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": NET}, "Classifier\\(net, params, state\\)"),
        ({"model": (NET, PARAMS, STATE)}, "Classifier\\(net, params, state\\)"),
        ({"x": "image"}, "expected an array of numbers"),
        ({"x": [[0.5, 0.5], [0.5]]}, "expected an array of numbers"),
        ({"x": Tracked()}, "detach"),
        ({"x": 0.5}, "expected floats"),
        ({"x": (255 * X).astype(np.uint8)}, "divide uint8 pixels by 255"),
        ({"x": X.at[0, 0].set(jnp.nan) if hasattr(X, "at") else X * np.nan}, "NaN"),
        ({"x": X + 0.6}, "own its normalization"),
        ({"x": X + 0.5 + 1e-3}, "own its normalization"),
        ({"y": np.eye(3)[:2]}, "argmax\\(-1\\)"),
        ({"y": np.array([0.0, 1.0])}, "expected integers"),
        ({"y": ["a", "b"]}, "encode text as numbers"),
        ({"y": np.array([0, 3])}, "expected 0 to 2"),
        ({"y": np.array([-1, 1])}, "expected 0 to 2"),
        ({"y": np.array([0])}, "\\(1,\\) of 2 images"),
        ({"y": 0}, "expected integers \\(2,\\)"),
        ({"epsilon": 8}, "8 / 255"),
        ({"epsilon": np.nan}, "expected >= 0"),
        ({"epsilon": np.inf}, "finite"),
        ({"epsilon": -0.1}, "expected >= 0"),
        ({"epsilon": "0.1x"}, "one number"),
        ({"epsilon": [0.1, 0.1, 0.1]}, "use attacks.sweep"),
        ({"step_size": -0.1}, "expected > 0"),
        ({"step_size": 0}, "expected > 0"),
        ({"x": X.astype(np.float32), "epsilon": 1e-39}, "1e-39, which is 0 in float32"),
        ({"x": X.astype(np.float32), "step_size": 1e-39}, "0 in float32"),
        ({"epsilon": 1e-310}, "which is 0 in float64"),
        ({"x": X[:0], "y": Y[:0]}, "got no images, x has shape \\(0, 4\\)"),
        ({"x": X[:, :0]}, "at least one pixel"),
        ({"key": 0}, "jax.random.key\\(seed\\)"),
        ({"key": jax.random.split(KEY, 2)}, "one key"),
        ({"steps": 2.5}, "whole number"),
        ({"steps": True}, "whole number"),
        ({"steps": 0}, "expected >= 1"),
        ({"norm": "l3"}, "valid names"),
        ({"norm": ["l2"]}, "valid names"),
        ({"box": 1}, "low < high"),
        ({"box": (0, np.nan)}, "low < high"),
        ({"loss": "mse"}, "expected a function"),
        ({"targeted": 1}, "True or False"),
        ({"color": 1}, "no setting 'color'"),
    ],
)
def test_what_cannot_be_used_is_named(change, message):
    with pytest.raises(JaxnnError, match=message):
        run("pgd", **change)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("noise", {"kind": 3}, "expected a name"),
        ("noise", {"kind": "pink"}, "pink"),
        ("corruptions", {"x": GRAY, "kind": "zoom"}, "zoom"),
        ("corruptions", {"x": GRAY, "kind": "contrast", "amount": 15}, "0 to 1 for co"),
        ("corruptions", {"kind": "contrast"}, "expected \\(B, H, W\\)"),
        ("apgd", {"norm": "l1"}, "valid names: linf, l2"),
        ("square", {"queries": 0}, "queries=0"),
        ("pgd", {"restarts": 3, "key": None}, "pass key="),
        ("pgd", {"early_stop": True, "lanes": 0}, "lanes=0, expected >= 1"),
        ("noise", {"key": None}, "key=jax.random.key"),
        ("square", {"first_share": 2}, "0 to 1"),
        ("ddn", {"gamma": -1}, "0 to 1"),
        ("carlini_wagner", {"confidence": np.nan}, "expected >= 0"),
        ("mifgsm", {"decay": "much"}, "expected >= 0"),
        ("deepfool", {"norm": "l1"}, "valid names: l2, linf"),
    ],
)
def test_every_number_has_bounds(name, change, message):
    with pytest.raises(JaxnnError, match=message):
        run(name, **change)


def test_a_budget_lost_in_float32_is_refused_of_float64_images_too():
    with jax.enable_x64(False), pytest.raises(JaxnnError, match="0 in float32"):
        run("fgsm", x=X, epsilon=1e-39)


def test_no_images_are_refused():
    for name in ATTACKS:
        with pytest.raises(JaxnnError, match="got no images"):
            run(name, x=X[:0], y=Y[:0])
    with pytest.raises(JaxnnError, match="got no rows"):
        MODEL.outputs(X[:0])


@pytest.mark.parametrize(
    ("x", "y"),
    [(X.tolist(), Y.tolist()), (Frame(X), Frame(Y)), (jnp.asarray(X), jnp.asarray(Y))],
)
def test_what_numpy_reads_is_taken(x, y):
    assert bool((run("pgd", x=x, y=y) == run("pgd")).all())


@pytest.mark.parametrize("off", [1.2e-7, -1.2e-7])
def test_pixels_off_the_box_by_the_rounding_of_float32_are_clipped(off):
    x = np.full((2, 4), 0.0 if off < 0 else 1.0, np.float32) + np.float32(off)
    x_adv = run("pgd", x=x, epsilon=0.0)
    assert np.asarray(x_adv).tolist() == np.clip(x, 0, 1).tolist()


def test_equal_networks_and_other_budgets_share_a_program():
    run("pgd")
    other = jax.tree.map(lambda a: a + 1, PARAMS)
    key = jax.random.key(7)
    with compiling() as found:
        run("pgd", model=Classifier(dense(3), other, STATE), epsilon=0.2, key=key)
    assert not found


def logits(x):
    """What a black box gives, of NumPy's arrays or JAX's: which gray is the nearest?"""
    return -abs(x.reshape(len(x), -1).mean(1)[:, None] - np.array([[0.2, 0.5, 0.8]]))


@pytest.mark.parametrize("traced", [False, True])
def test_a_black_box_is_attacked_by_its_outputs_only(traced):
    box = attacks.black_box(logits, 3, traced=traced)
    x = np.full((4, 4, 4), 0.4) + np.linspace(0, 0.2, 4)[:, None, None]
    y = box.outputs(x).argmax(-1)
    assert (y == 1).all()
    given = {"epsilon": 0.3, "queries": 60, "steps": 5, "amount": 0.5}
    for name in ("square", "spsa", "noise", "corruptions"):
        more = {"kind": "contrast"} if name == "corruptions" else {}
        x_adv = run(name, model=box, x=x, y=y, **settings(name, **given, **more))
        assert x_adv.shape == x.shape
        if name in ("square", "spsa"):
            assert not box.correct(x_adv, y).all()
    for name in ATTACKS:
        if ATTACKS[name].gradients:
            with pytest.raises(JaxnnError, match=f"{name} follows the gradient, and a"):
                run(name, model=box, x=x, y=y)
    with pytest.raises(JaxnnError, match="no gradients"):
        box.gradient(x, y)


def test_a_black_box_that_gives_other_than_logits_is_named():
    for wrong in (lambda x: x.sum(), lambda x: np.ones((len(x), 3), int)):
        with pytest.raises(JaxnnError, match="expected float logits"):
            run("square", model=attacks.black_box(wrong, 3))


def test_an_attack_of_another_module_is_known_to_the_table_and_the_threat_model():
    """One decorated function outside of the package: no other place names it."""
    from jaxnn.robustness import Threat, under
    from jaxnn.robustness.worst import attack_suite

    try:

        @attacks.attack(norms=("linf",), in_suite=True)
        def brighten(model, x, y, *, epsilon, targeted=False, box=(0.0, 1.0)):
            del model, y, targeted
            return jnp.clip(x + epsilon, *box)

        assert ATTACKS["brighten"].run is brighten
        x_adv = under(Threat("linf", 0.2), brighten, MODEL, X, Y)
        np.testing.assert_allclose(x_adv, X + 0.2)
        assert attack_suite("fast", "linf", 3)[-1].name == "brighten"
        assert attack_suite("fast", "l2", 3)[-1].name != "brighten"
        with pytest.raises(JaxnnError, match="brighten has no setting 'steps'"):
            brighten(MODEL, X, Y, epsilon=0.1, steps=3)
    finally:
        del ATTACKS["brighten"]
