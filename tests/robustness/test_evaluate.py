"""The evaluation believes an honest network and names what hides a gradient."""

import importlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnn import Classifier, attacks, mlp, serial
from jaxnn.errors import JaxnnError
from jaxnn.layers import Layer, conv, dense, flatten, max_pool, pointwise, relu, reshape
from jaxnn.robustness import (
    Proportion,
    Threat,
    evaluate,
    layer_gradients,
    report,
    swap_backward,
)
from jaxnn.robustness.checks import k16_determinism
from jaxnn.robustness.context import CHECKS, CheckContext
from jaxnn.robustness.transfer import Transfer
from jaxnn.robustness.worst import attack_suite
from jaxnn.rules import Rule
from jaxnn.train import fit
from tests.attacks.problem import NET, model, noisy, trained
from tests.train.problem import pixels

THREAT = Threat("linf", 0.15)


@pytest.fixture(scope="module")
def network():
    return trained(80)


@pytest.fixture(scope="module")
def plain(network):
    params, state, x, y = network
    return evaluate(model(params, state), x, y, threat=THREAT, sample=40)


def test_it_is_short_at_a_prompt_and_a_table_in_a_notebook(plain):
    assert repr(plain).startswith(f"<Evaluation: {plain.clean} right")
    assert len(repr(plain)) < 400
    text = plain._repr_html_()
    assert text.count("<tr>") == 3 + len(plain.rounds)
    assert f"<td>worst case per image</td><td>{plain.clean.total:,}</td>" in text


def rounded(levels):
    """A staircase: its derivative is 0 wherever there is one."""

    def fwd(x):
        return jnp.round(x * levels) / levels, ()

    def bwd(cache, dy):
        del cache
        return (jnp.zeros_like(dy),)

    return pointwise(Rule("quantize", fwd, bwd))


def by_id(found):
    return {c.id: c for c in found.checks}


def test_all_twenty_checks_run_and_an_honest_network_passes(plain):
    assert sorted(by_id(plain), key=lambda n: int(n[1:])) == [
        f"K{i}" for i in range(1, 21)
    ]
    assert not [c for c in plain.checks if c.verdict == "fail"]
    assert "DO NOT BELIEVE" not in plain.verdict


HONEST = {
    "max pool on a flat background": (
        serial(reshape(4, 4, 1), conv(6, 2), relu, max_pool(2), flatten, dense(3)),
        8,
    ),
    "batch norm, overtrained": (mlp([16, 24, 24, 3], normalize=True), 80),
    "linear": (serial(flatten, dense(3)), 8),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", HONEST)
def test_no_check_fails_on_an_honest_network(name):
    """All kinds of them, at both levels: experiments.honest."""
    net, epochs = HONEST[name]
    x, y = pixels(400)
    x = np.where(x < 100, 0, x)
    history = fit(net, (x, y), optimizer=optax.adam(0.02), epochs=epochs, batch=50)
    model = Classifier(net, history.params, history.state)
    found = evaluate(model, x[:80] / 255.0, y[:80], threat=THREAT, sample=80)
    assert not [c for c in found.checks if c.verdict == "fail"]


def test_the_worst_case_is_the_images_that_no_attack_broke(plain, network):
    params, state, x, y = network
    assert plain.robust.count == plain.robust_images.sum() <= plain.clean.count
    out = NET.forward(params, state, jnp.asarray(plain.x_adv), train=False)[0]
    np.testing.assert_array_equal(out.argmax(-1) == y, plain.robust_images)
    assert abs(plain.x_adv - x).max() <= THREAT.epsilon + 1e-6
    assert plain.robust.count + sum(r.broken for r in plain.rounds) == plain.clean.count


def steep(factor):
    """A sigmoid that is flat in float32 nearly everywhere, and its true derivative."""

    def fwd(x):
        y = jax.nn.sigmoid(factor * (x - 0.4))
        return y, y

    return pointwise(
        Rule("steep", fwd, lambda y, dy: (factor * y * (1 - y) * dy,)), "steep"
    )


def front(layer):
    """NET behind one more layer."""
    return lambda params, state: Classifier(
        serial(layer, NET), ((), params), ((), state)
    )


MASKED = {  # network, budget, check that fails, what it and the verdict say
    "a staircase": (front(rounded(8)), 0.15, "K20", "quantize", "quantize"),
    "a staircase, beside the network inside": (
        front(rounded(8)), 0.15, "K9", "more harm", "quantize"
    ),
    "a steep sigmoid": (front(steep(1000.0)), 0.15, "K20", "hardly any", "steep"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", MASKED)
def test_what_hides_the_gradient_fails_its_check_and_is_named(name, network):
    params, state, x, y = network
    if name == "a steep sigmoid":  # in float64 its gradient is faint, but there
        single = jax.tree.map(lambda a: np.asarray(a, np.float32), network[:3])
        params, state, x = single
    make, epsilon, check, said, named = MASKED[name]
    others = {"inside": model(params, state)} if check == "K9" else None
    found = evaluate(
        make(params, state), x, y, threat=Threat("linf", epsilon), others=others,
        sample=80 if named == "steep" else 40, certified=np.ones(len(y), bool),
    )  # fmt: skip
    assert by_id(found)[check].verdict == "fail"
    assert said in by_id(found)[check].message
    assert "DO NOT BELIEVE" in found.verdict
    assert named in found.verdict
    if name == "a staircase":  # what the attack through it breaks more
        assert by_id(found)["K20"].number > 0.2
        assert by_id(found)["K19"].verdict == "fail"  # no certificate held for all


@pytest.mark.slow
def test_a_network_that_draws_is_attacked_on_average_and_named(network):
    params, state, x, y = network
    drawing = Classifier(
        serial(noisy(0.02), NET), ((), params), ((), state), jax.random.key(5), draws=4
    )
    found = evaluate(drawing, x, y, threat=THREAT, sample=20)
    assert [c.id for c in found.checks if c.verdict == "fail"] == ["K16"]
    assert "Cause: randomness in layer 0 noisy" in found.verdict
    assert found.clean.value > 0.8
    assert found.robust.value < found.clean.value - 0.2


@pytest.mark.slow
def test_a_black_box_is_evaluated_by_its_outputs():
    rng = np.random.default_rng(0)
    w = rng.standard_normal((16, 3))
    box = attacks.black_box(lambda x: x.reshape(len(x), -1) @ w, 3)
    x = rng.uniform(0, 1, (24, 16))
    found = evaluate(box, x, (x @ w).argmax(-1), threat=THREAT)
    skipped = {c.id for c in found.checks if c.verdict == "skip"}
    assert skipped >= {"K3", "K10", "K18", "K20"}
    assert {"K1", "K2", "K7", "K15", "K16", "K17"}.isdisjoint(skipped)
    assert not [c for c in found.checks if c.verdict == "fail"]
    assert found.robust.count < found.clean.count
    assert "outputs only" in found.verdict
    assert [r.name for r in found.rounds] == [
        "SPSA-40 (black-box)", "Square-500 (black-box)"
    ]  # fmt: skip
    assert report.page(found, "A black box")


def test_the_report_of_layers_goes_from_the_output_to_the_input(network):
    params, state, x, y = network
    found = layer_gradients(model(params, state), x, y)
    names = [layer.label.split()[-1] for layer in found]
    assert names[0] == "dense(3)"
    assert found[-1].path == (0,)
    assert all(layer.ratio > 0 and layer.zero_out < 0.1 for layer in found)


def test_swap_backward_changes_one_backward_and_no_forward(network):
    params, state, x, _ = network
    net = serial(rounded(8), NET)
    swapped = swap_backward(net, [0])
    p, s = ((), params), ((), state)
    y1, _, cache = net.forward(p, s, jnp.asarray(x), train=False)
    y2, _, open_cache = swapped.forward(p, s, jnp.asarray(x), train=False)
    np.testing.assert_array_equal(y1, y2)
    assert not np.any(net.backward(cache, jnp.ones_like(y1))[0])
    assert np.any(swapped.backward(open_cache, jnp.ones_like(y2))[0])
    with pytest.raises(JaxnnError, match="2 parts, got number 5"):
        swap_backward(net, [5])
    assert isinstance(swapped, Layer)


def test_wilson_intervals_are_the_textbooks():
    low, high = Proportion(10, 100).interval  # 0.0552 to 0.1744
    assert (round(low, 4), round(high, 4)) == (0.0552, 0.1744)
    assert Proportion(0, 50).interval[0] == 0
    assert Proportion(50, 50).interval[1] == pytest.approx(1)
    assert Proportion(50, 50).interval[0] < 1


def test_the_page_says_what_the_json_says(plain, network, tmp_path):
    _, _, x, y = network

    def outputs(images):
        chance = np.zeros((len(images), 3))
        chance[:, 0] = 1
        return chance

    path = report.write(tmp_path / "out", plain, x, y, outputs, "Robustness of a test")
    text = path.read_text()
    kept = json.loads((tmp_path / "out" / "robustness.json").read_text())
    assert text.startswith("# Robustness of a test: believable\n\n**No sign")
    assert next(iter(kept)) == "verdict"
    assert kept["verdict"] == plain.verdict
    assert kept["believable"] is True
    assert all(f"| {c['id']} |" in text for c in kept["checks"])
    assert kept["robust"]["count"] == plain.robust.count
    assert (tmp_path / "out" / "curve.png").stat().st_size > 5000
    assert (tmp_path / "out" / "examples.png").stat().st_size > 5000
    assert report.lines(plain)[0] == f"verdict        {plain.verdict}"


def test_a_picture_that_fails_leaves_the_page_and_the_numbers(plain, network, tmp_path):
    _, _, x, y = network

    def outputs(images):
        raise ZeroDivisionError("no picture")

    transfer = Transfer(("a", "b"), np.eye(2), plain.checks[0])
    path = report.write(tmp_path, plain, x, y, outputs, "A test", transfer)
    assert "Not drawn: examples.png, ZeroDivisionError: no picture" in path.read_text()
    assert (tmp_path / "robustness.json").is_file()
    assert (tmp_path / "curve.png").is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"level": "slow"}, "fast, full"),
        ({"threat": Threat("l7", 0.1)}, "l1"),
        ({"threat": Threat("linf", 0.0)}, "above 0"),
        ({"threat": Threat("linf", float("nan"))}, "above 0"),
    ],
)
def test_bad_requests_are_named(network, options, message):
    params, state, x, y = network
    with pytest.raises(JaxnnError, match=message):
        evaluate(model(params, state), x, y, **options)
    with pytest.raises(JaxnnError, match="80 images and 79 labels"):
        evaluate(model(params, state), x, y[:-1])


def test_determinism_is_checked_on_the_attack_itself(network):
    params, state, x, y = network
    e = CheckContext(
        model(params, state), THREAT, jax.random.key(0), 40, x[:40], y[:40],
        np.arange(40), attack_suite("fast", "linf", 3)[:2],
    )  # fmt: skip
    assert k16_determinism(e).verdict == "pass"
    e.images["PGD-40"] = e.images["PGD-40"] + 1e-9
    assert k16_determinism(e).verdict == "fail"


def test_images_of_numpys_type_are_those_that_attacks_see(network, monkeypatch):
    """Where JAX has float32, what it rounds off is no change that an attack made."""
    where = importlib.import_module("jaxnn.robustness.evaluate")
    monkeypatch.setattr(where, "CHECKS", {"K1": CHECKS["K1"]})  # the others are dear
    monkeypatch.setattr(where, "attack_suite", lambda *a: attack_suite(*a)[:2])
    _, _, x, y = network
    with jax.enable_x64(False):
        params, state, _ = NET.init(jax.random.key(0), x.shape[1:])
        x = np.asarray(x[:4], np.float64) * 0.9
        found = evaluate(model(params, state), x, y[:4], threat=THREAT)
    assert found.x_adv.dtype == np.float32
    assert by_id(found)["K1"].verdict == "pass"
