"""Your own rule in a file of twenty lines: what is wrong, where, and probably why."""

import json

import numpy as np
import pytest

from jaxnn.check.own import audit_own, load_own
from jaxnn.cli import main
from jaxnn.errors import JaxnnError

HEAD = """
import jax, jax.numpy as jnp, numpy as np
from jaxnn import Rule
from jaxnn import serial
from jaxnn.layers import dense, relu
draw = np.random.default_rng(3)
"""
AFFINE = """
def {name}_forward(x, w, b):
    return x @ w + b[None], (x, w)

def {name}_backward(cache, dy):
    x, w = cache
    return {dx}, {dw}, {db}

{name}_inputs = draw.normal(size=(4, 3)), draw.normal(size=(3, 3)), draw.normal(size=3)
"""
RIGHT = {"dx": "dy @ w.T", "dw": "x.T @ dy", "db": "dy.sum(0)"}
# known gaps: one entry wrong by 1e-7 is taken for float32, and the names of a compiled
# function's arguments are not found
GAP = pytest.mark.xfail(strict=True)

WRONG = {  # name -> what is changed, argument, words of the message
    "sign": ({"dw": "-x.T @ dy"}, "dw", "the sign is wrong"),
    "factor": ({"dx": "1.01 * dy @ w.T"}, "dx", "constant factor 1.01"),
    "tiny": ({"dx": "1.0001 * dy @ w.T"}, "dx", "constant factor 1.0001"),
    "unsummed": ({"db": "dy"}, "db", "missing reduction: sum it over axis 0"),
    "mean": ({"db": "dy.mean(0)"}, "db", "too small by 4, the batch size"),
    "untransposed": ({"dw": "dy.T @ x"}, "dw", "transpose"),
    "row": ({"db": "dy[0]"}, "db", "missing reduction over the batch"),
    "name": ({"db": "0 * b"}, "db", "raised NameError"),
    "zero": ({"db": "0 * dy.sum(0)"}, "db", "zero"),
    "last": ({"dw": "(x.T @ dy).at[:, -1].mul(2)"}, "dw", "2 (the last) of axis 1"),
    "entry": ({"dw": "(x.T @ dy).at[1, 2].add(1e-6)"}, "dw", "one entry, [1, 2]"),
    "float32": (
        {"dw": "(x.T @ dy).astype('float32').astype(x.dtype)"}, "dw", "in float32"
    ),
}  # fmt: skip


@pytest.fixture
def file(tmp_path):
    """Write a file and return what audit_own finds under a name in it."""

    def audit(text, name="own", shapes=(), **options):
        path = tmp_path / "mine.py"
        path.write_text(HEAD + text)
        return audit_own(load_own(f"{path}:{name}"), shapes, **options)[0]

    return audit


def affine(change=()):
    return AFFINE.format(name="own", **RIGHT | dict(change))


def test_a_right_pair_is_right(file):
    assert file(affine()).findings == ()


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=GAP) if n == "entry" else n for n in WRONG]
)
def test_a_wrong_pair_is_told_its_argument_its_worst_entry_and_why(file, name):
    change, argument, words = WRONG[name]
    dtypes = ("float64",)
    (finding,) = file(affine(change), dtypes=dtypes).findings
    if name == "name":  # which argument it was, an exception does not say
        assert words in finding.line()
        return
    assert finding.argument == argument[1:]
    assert words in finding.line()
    c = finding.comparison
    if not c.note:
        assert f"at {list(c.index)}: got {c.manual:.6g}, expected" in finding.line()
        assert abs(c.manual - c.automatic) == c.max_abs


def test_a_rule_a_layer_and_a_custom_vjp_are_taken(file):
    text = """
own = Rule("square", lambda x: (x * x, x), lambda x, dy: (-2 * x * dy,))

@jax.custom_vjp
def double(x):
    return 2 * x
double.defvjp(lambda x: (2 * x, None), lambda _, dy: (2 * dy,))

good = dense(4)
def backward(cache, dy):
    dx, g = good.backward(cache, dy)
    return dx, {"w": g["b"][None] + 0 * g["w"], "b": g["b"]}
net = serial(relu, good._replace(backward=backward, name="mine"))
"""
    assert "the sign is wrong" in file(text, "own", [(3,)]).findings[0].line()
    assert file(text, "double", [(2, 2)]).findings == ()
    (finding,) = file(text, "net", [(5,)]).findings
    assert (finding.layer, finding.argument) == ("1 mine", "w")


def test_another_value_at_a_kink_is_no_error(file):
    text = """
own = (lambda x: (jnp.maximum(x, 0), x), lambda x, dy: jnp.where(x >= 0, dy, 0))
own_inputs = np.array([[-1.0, 0.0, 2.0]])
"""
    found = file(text)
    assert found.findings == ()
    assert found.kinks == {"own": 1}
    assert found.excused == ("own",)


def test_numpy_code_is_compared_with_differences(file):
    text = """
def own_forward(x, w):
    h = np.tanh(np.asarray(x) @ np.asarray(w))
    return np.maximum(h, 0), (x, w, h)

def own_backward(cache, dy):
    x, w, h = cache
    g = np.where(h > 0, dy, 0) * (1 - h * h)
    return g @ w.T, FACTOR * x.T @ g
"""
    shapes = [(4, 3), (3, 2)]
    assert file(text.replace("FACTOR", "1"), shapes=shapes).findings == ()
    (finding,) = file(text.replace("FACTOR", "1.001"), shapes=shapes).findings
    assert finding.argument == "w"
    assert "constant factor 1.001" in finding.line()


@pytest.mark.parametrize(
    ("text", "name", "shapes", "words"),
    [
        ("x = 1", "own", [], "unknown name"),
        ("own = 3", "own", [], "is int, expected a Rule, a Layer, a pair"),
        (affine(), "onw", [], "Did you mean 'own'"),
        pytest.param(
            "own = (jnp.sin, jnp.cos)", "own", [], "own_inputs = (x)", marks=GAP
        ),
        ("own = (lambda x: x, lambda c, dy: dy)", "own", [(2,)], "the pair (y, cache)"),
        (affine(), "own", [], None),
        ("own = dense(3)", "own", [], "expected one, without the batch axis"),
        ("own = (lambda x: (x @ x, x), None)", "own", [], "is tuple"),
        ("1 / 0", "own", [], "ZeroDivisionError"),
    ],
)
def test_what_is_no_rule_is_told_what_to_do(file, text, name, shapes, words):
    if words is None:
        assert file(text, name, shapes).findings == ()
        return
    with pytest.raises(JaxnnError) as error:
        file(text, name, shapes)
    assert words in str(error.value).replace("\n", " ")


def test_the_command_on_a_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "mine.py").write_text(HEAD + affine({"dw": "-x.T @ dy"}))
    assert main(["compare", "mine.py:own", "--out", "x"]) == 1
    text = capsys.readouterr().out
    assert "own: dw (w) is wrong at" in text
    assert "the sign is wrong" in text
    result = json.loads((tmp_path / "x" / "gradients.json").read_text())
    assert result["passed"] is False
    assert result["gradients"]["findings"][0]["argument"] == "w"
    page = (tmp_path / "x" / "gradients.md").read_text()
    assert "# They do not agree" in page
    assert "the sign is wrong" in page
    assert {p.name for p in (tmp_path / "x").iterdir()} == {
        "gradients.json", "gradients.md", "errors.png", "scatter.png",
    }  # fmt: skip


def test_inputs_need_not_be_arrays_of_float64(file):
    text = affine() + "\nown_inputs = tuple(a.astype('float32') for a in own_inputs)\n"
    found = file(text)
    assert found.findings == ()
    assert {c.comparison.dtype for c in found.checks} == {"float64", "float32"}
    assert np.all([c.comparison.passed for c in found.checks])
