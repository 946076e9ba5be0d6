"""A check fails beyond the error of so many images: never for one, always for many."""

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from jaxnn.robustness import Threat
from jaxnn.robustness.context import CHECKS, Check, CheckContext
from jaxnn.robustness.evaluate import judge
from jaxnn.robustness.masking import LayerGradient, Masking
from jaxnn.robustness.threat import surely_above, surely_more
from jaxnn.robustness.transfer import _k9
from jaxnn.robustness.worst import attack_suite

N = 200


def some(count):
    """Of N images the first `count`."""
    return np.arange(N) < count


class Fake(CheckContext):
    """A context of N images whose measurements are given, not made.

    An attacked image says itself whether it is classified right: it is all 1 or all 0.
    """

    def __init__(self, **given):
        y = np.arange(N) % 10
        model = SimpleNamespace(
            gradients=True,
            correct=lambda x, y, batch: x.reshape(len(x), -1)[:, 0] > 0.5,
        )
        suite = attack_suite("fast", "linf", 10)
        super().__init__(
            cast(Any, model), Threat(), cast(Any, None), None, np.ones((N, 2, 2)), y,
            np.arange(N), suite,
        )  # fmt: skip
        self.clean = some(N)
        self.left = {s.name: some(100) for s in suite} | given.pop("left", {})
        for name, value in given.items():
            setattr(self, name, value)

    def after(self, attack):
        """Let attacks leave right the images (N,) that `attack(options)` says."""

        def run(kind, y=None, threat=None, model=None, **options):
            return np.where(attack(options)[:, None, None], np.ones_like(self.x), 0)

        self.attack = run
        return self


def curve(pgd, fgsm):
    """Right at every budget, by the number of images."""
    return {
        "FGSM": np.stack([some(n) for n in fgsm]),
        "PGD-40": np.stack([some(n) for n in pgd]),
    }


DOWN = [190, 150, 100, 50, 20, 5, 0, 0]
SQUARE = "Square-500 (black-box)"


def attacked(few):
    """More steps or restarts lose `few` images that fewer had broken."""

    def left(options):
        short = options.get("steps") == 10 or options.get("restarts") == 1
        return some(100) if short else some(100 + few)

    return Fake().after(left)


def twice(few):
    """Twice the effort breaks `few` images more."""
    e = Fake()
    e.attacked = lambda spec, **more: (
        np.ones((N, 2, 2)) * some(100 - few)[:, None, None]
    )
    return e


def noise(few):
    """Noise breaks `few` of the images that stand."""
    e = Fake()
    random = some(100) & ~some(few)
    e.random = lambda epsilon, draws: np.ones((N, 2, 2)) * random[:, None, None]
    return e


def sizes(few, loss="cross-entropy", size=0.0):
    """The gradient of one loss has that size on `few` images."""
    gradients = {
        name: np.where(some(few), size if name == loss else 1.0, 1.0)
        for name in ("cross-entropy", "margin")
    }
    e = Fake(gradients=gradients)
    e.outputs = lambda x: np.eye(10)[np.arange(len(x)) % 10]
    return e


def margin_breaks(few, size):
    """The margin breaks `few` more, where cross-entropy's gradient has that size."""
    gradients = {"cross-entropy": np.full(N, size), "margin": np.ones(N)}
    return Fake(left={"PGD-40, margin": some(100 - few)}, gradients=gradients)


def other(few):
    """Another network's examples break `few` more."""
    e = Fake().after(lambda options: some(100 - few))
    e.others = {"other": e.model}
    return e


CASES = {  # what a number of images makes, that number for which nothing fails; fails
    "K3": (lambda n: Fake(curve=curve([190, 150 + n, *DOWN[2:]], DOWN)), 2, 40),
    "K4": (lambda n: Fake(curve=curve([*DOWN[:6], 5, 5 + n], DOWN)), 2, 40),
    "K5": (lambda n: Fake().after(lambda _: some(n)), 22, 60),
    "K6": (lambda n: Fake().after(lambda _: some(n)), 25, 60),
    "K7": (noise, 2, 10),
    "K8": (lambda n: Fake(left={SQUARE: some(100 - n)}), 4, 30),
    "K9": (other, 4, 30),
    "K10": (sizes, 25, 60),
    "K11": (lambda n: margin_breaks(n, size=0.0), 12, 40),
    "K13": (attacked, 2, 10),
    "K14": (attacked, 2, 10),
}


@pytest.mark.parametrize("name", CASES)
def test_a_few_images_fail_no_check_and_many_do(name):
    make, few, many = CASES[name]
    assert CHECKS[name](make(0)).verdict in ("pass", "warn")
    assert CHECKS[name](make(few)).verdict in ("pass", "warn")
    found = CHECKS[name](make(many))
    assert found.verdict == "fail"
    assert found.images  # the evidence


@pytest.mark.parametrize(
    ("name", "make"),
    [("K7", noise), ("K8", CASES["K8"][0]), ("K12", twice), ("K13", attacked)],
)
def test_one_image_is_no_warning(name, make):
    assert CHECKS[name](make(1)).verdict == "pass"


def test_more_effort_that_breaks_many_more_is_a_warning():
    found = CHECKS["K12"](twice(20))
    assert found.verdict == "warn"
    assert "not converged" in found.message


def test_a_weaker_loss_with_a_gradient_hides_nothing_but_is_said():
    found = CHECKS["K11"](margin_breaks(40, size=0.1))
    assert found.verdict == "warn"
    assert "never quote the attack on one loss" in found.message


def test_one_weak_step_is_no_warning_but_one_that_weakens_is():
    """FGSM far above PGD is the rule; where a longer step is weaker, it is hidden."""
    weak = [190, 170, 150, 120, 90, 40, 20, 10]
    found = CHECKS["K3"](Fake(curve=curve(DOWN, weak)))
    assert found.verdict == "pass"
    assert "overstates accuracy by 35.0 pp" in found.message
    hidden = [190, 155, 110, 140, 180, 150, 60, 20]
    found = CHECKS["K3"](Fake(curve=curve(DOWN, hidden)))
    assert found.verdict == "warn"
    assert "hidden from a single step" in found.message


def test_images_that_were_wrong_before_count_for_nothing():
    e = sizes(60)
    e.clean = ~some(60)
    assert CHECKS["K10"](e).number == 0
    e = noise(60)
    e.clean = ~some(60)
    assert CHECKS["K7"](e).number == 0


def test_a_gradient_that_is_no_number_leads_nowhere():
    assert CHECKS["K10"](sizes(60, size=np.nan)).verdict == "fail"


def test_a_network_that_says_the_same_of_every_image_hides_nothing():
    e = sizes(N)
    e.outputs = lambda x: np.tile(np.arange(10.0), (len(x), 1))
    found = CHECKS["K10"](e)
    assert found.verdict == "warn"
    assert "nothing to follow" in found.message


@pytest.mark.parametrize("outputs", [np.nan, np.inf])
def test_outputs_that_are_no_numbers_are_no_answers(outputs):
    e = Fake()
    e.outputs = lambda x: np.where(some(1)[: len(x), None], outputs, np.ones(10))
    found = CHECKS["K15"](e)
    assert found.verdict == "fail"
    assert found.images == (0,)


def test_a_certificate_is_refuted_by_one_image():
    e = Fake(certified=some(100))
    assert CHECKS["K19"](e).verdict == "pass"
    e.certified = some(101)
    assert CHECKS["K19"](e).images == (100,)
    e.certified, e.clean = some(100), ~some(1)  # wrong before any attack
    assert CHECKS["K19"](e).images == (0,)


@pytest.mark.parametrize(
    ("check", "change"),
    [
        ("K1", lambda x: x + 1e-12),
        ("K2", lambda x: x + 0.1501),
        ("K2", lambda x: x * np.nan),
        ("K2", lambda x: x + 0.1 + 0.45 * some(1)[:, None, None]),
    ],
)
def test_an_attack_that_does_what_it_must_not_fails_the_check(check, change):
    e = Fake()
    e.x = np.full((N, 2, 2), 0.5)
    e.images = {"one": change(e.x)}
    e.attacked = lambda spec, **options: change(e.x)
    found = CHECKS[check](e)
    assert found.verdict == "fail"
    assert found.images


def test_a_layer_with_little_gradient_that_hides_nothing_is_no_fault():
    """Half of a relu is off: only what an attack through it gains would be a reason."""
    relu = LayerGradient((1,), "1 relu", 0.5, 0.0, 0.0, 0.7, True)
    e = Fake(worst=some(150), masking=Masking([relu], [], relu, some(150)))
    found = CHECKS["K20"](e)
    assert found.verdict == "pass"
    assert "1 relu passes hardly any gradient" in found.message
    assert "hides nothing" in found.message
    e.masking = Masking([relu], [], relu, some(0))
    assert CHECKS["K20"](e).verdict == "fail"


def test_a_loss_that_leads_elsewhere_is_named():
    k11 = Check("K11", "two losses agree", "fail", 0.068, "", ())
    gradients = {"cross-entropy": np.ones(N)}
    e = Fake(masking=Masking([], [], None, None), gradients=gradients)
    assert "Cause: the loss: along another one" in judge([k11], e)
    assert "Cause: not found" in judge([k11._replace(id="K9")], e)


def test_a_share_is_surely_above_a_limit_beyond_three_errors():
    assert not surely_above(0, 200, 0.0)
    assert not surely_above(1, 200, 0.005)
    assert surely_above(10, 200, 0.005)
    assert not surely_above(21, 200, 0.1)
    assert surely_above(60, 200, 0.1)


def test_paired_differences_count_both_ways():
    lost, gained = some(40), ~some(160)
    assert not surely_more(lost, gained, 0.0)
    assert surely_more(lost, some(0), 0.05)
    assert not surely_more(some(3), some(0), 0.002)


@pytest.mark.parametrize(("count", "verdict"), [(3, "pass"), (60, "fail")])
def test_a_matrix_of_transfers_fails_beyond_the_error_only(count, verdict):
    own, others = some(N), ~some(count)
    right = np.array([[own, own], [others, own]])
    found = _k9(("one", "other"), right)
    assert found.verdict == verdict
    assert found.images == tuple(range(min(count, 20)))
