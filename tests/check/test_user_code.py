"""Your own rule in a file of twenty lines: what is wrong, where, and probably why."""

import json

import numpy as np
import pytest

from jaxnn.check import user_code
from jaxnn.check.user_code import audit_user_code, load_user_code
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
# a known gap: the names of a compiled function's arguments are not found
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
    "exit": ({"db": "exit(3)"}, "db", "raised SystemExit"),
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
        return audit_user_code(load_user_code(f"{path}:{name}"), shapes, **options)[0]

    return audit


def affine(change=()):
    return AFFINE.format(name="own", **RIGHT | dict(change))


def test_a_right_pair_is_right(file):
    assert file(affine()).findings == ()


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_pair_is_told_its_argument_its_worst_entry_and_why(file, name):
    change, argument, words = WRONG[name]
    dtypes = ("float64",)
    (finding,) = file(affine(change), dtypes=dtypes).findings
    if name in ("name", "exit"):  # which argument it was, an exception does not say
        assert words in finding.line()
        return
    assert finding.argument == argument[1:]
    assert words in finding.line()
    c = finding.comparison
    if not c.note:
        assert f"at {list(c.index)}: got {c.manual:.6g}, expected" in finding.line()
        assert abs(c.manual - c.automatic) == c.max_abs


def pairs(text):
    """Name -> (code, words that the finding must hold); "?" begins a pair."""
    found = {}
    for block in text.strip().removeprefix("? ").split("\n? "):
        head, _, code = block.partition("\n")
        name, _, words = head.partition(" -> ")
        inputs = (
            "" if "own_inputs" in code else "\nown_inputs = draw.normal(size=(4, 3))"
        )
        found[name] = code + inputs, words
    return found


RIGHT_PAIRS = pairs(r"""
? operators alone, np.dot behind
def own_forward(x, w): return x @ w, (x, w)
def own_backward(c, dy): x, w = c; return np.dot(dy, w.T), np.dot(x.T, dy)
own_inputs = draw.normal(size=(4, 3)), draw.normal(size=(3, 2))
? numpy's relu
def own_forward(x): y = x.copy(); y[y < 0] = 0; return y, x
def own_backward(x, dy): d = dy.copy(); d[x < 0] = 0; return d
? a branch
def own_forward(x):
    if x.sum() > 0: return np.sin(x), (x, 1)
    return np.cos(x), (x, 0)
def own_backward(c, dy):
    x, s = c
    return dy * np.cos(x) if s else -dy * np.sin(x)
own_inputs = (np.abs(draw.normal(size=(4, 3))),)
? lists
def own_forward(x, w): return [x * w, (x, w)]
def own_backward(c, dy): x, w = c; return [dy * w, dy * x]
own_inputs = [draw.normal(size=(4, 3)), draw.normal(size=(4, 3))]
? a dict, and arguments out of the alphabet
def own_forward(p, a): return a @ p['w'] + p['b'][None], (a, p)
def own_backward(c, dy):
    a, p = c
    return {'w': a.T @ dy, 'b': dy.sum(0)}, dy @ p['w'].T
p = {'w': draw.normal(size=(3, 2)), 'b': draw.normal(size=2)}
own_inputs = p, draw.normal(size=(4, 3))
? log of sqrt
def own_forward(x): return jnp.log(jnp.sqrt(x)), x
def own_backward(x, dy): return dy / (2 * x)
own_inputs = (draw.uniform(0.5, 2, (4, 3)),)
? log of sqrt in numpy
def own_forward(x): return np.log(np.sqrt(x)), x
def own_backward(x, dy): return dy / (2 * x)
own_inputs = (draw.uniform(0.5, 2, (4, 3)),)
? cross-entropy of one-hot rows
def own_forward(z, t):
    y = jax.nn.log_softmax(z)
    return -(t * y).sum(), (y, t)
def own_backward(c, dy): y, t = c; return dy * (jnp.exp(y) - t), -dy * y
own_inputs = (draw.normal(size=(3, 4)), np.eye(4)[[0, 2, 3]])
? numpy's maximum of ties to the first
def own_forward(x): return x.max(1), x
def own_backward(x, dy):
    d = np.zeros_like(x)
    d[np.arange(len(x)), np.asarray(x).argmax(1)] = dy
    return d
own_inputs = (np.array([[1.0, 1.0, 0.0], [2.0, 2.0, 2.0]]),)
? float32 within numpy
def own_forward(x): x = x.astype(np.float32); return np.tanh(x), x
def own_backward(x, dy): return dy * (1 - np.tanh(x) ** 2)
own_inputs = (np.linspace(-1, 1, 5),)
? float32 out of float64
def own_forward(x): return np.float32(2) * x.astype(np.float32), None
def own_backward(cache, dy): return 2 * dy
own_inputs = (np.linspace(-1, 1, 5),)
? argsort, traced but no program
def own_forward(x):
    i = np.argsort(x, -1)
    return np.take_along_axis(x, i, -1), i
def own_backward(i, dy):
    return np.take_along_axis(dy, np.argsort(i, -1), -1)
own_inputs = (draw.normal(size=(3, 5)),)
? Newton's iteration
def own_forward(x):
    y = 0.5 * (1 + x)
    for _ in range(6): y = 0.5 * (y + x / y)
    return y, y
def own_backward(y, dy): return dy / (2 * y)
own_inputs = (draw.uniform(0.5, 4, (4, 3)),)
? Newton's iteration in a loop of jax
def own_forward(x):
    def step(i, y): return 0.5 * (y + x / y)
    y = jax.lax.fori_loop(0, 7, step, 0.5 * (1 + x))
    return y, y
def own_backward(y, dy): return dy / (2 * y)
own_inputs = (draw.uniform(0.5, 4, (4, 3)),)
? Newton's iteration in numpy
def own_forward(x):
    y = np.ones_like(x)
    for _ in range(7): y = 0.5 * (y + x / y)
    return y, y
def own_backward(y, dy): return dy / (2 * y)
own_inputs = (draw.uniform(0.5, 4, (4, 3)),)
? a loop in numpy
def own_forward(x):
    y = np.zeros(len(x))
    for i in range(len(x)): y[i] = np.sin(x[i])
    return y, x
def own_backward(x, dy): return np.cos(x) * dy
own_inputs = (np.arange(4.0),)
? layers in numpy, compared with differences
def own_forward(x, w):
    h = np.tanh(np.asarray(x) @ np.asarray(w))
    return np.maximum(h, 0), (x, w, h)
def own_backward(cache, dy):
    x, w, h = cache
    g = np.where(h > 0, dy, 0) * (1 - h * h)
    return g @ w.T, x.T @ g
own_inputs = draw.normal(size=(4, 3)), draw.normal(size=(3, 2))
? plain lists of numbers
def own_forward(x): return x * x, x
def own_backward(x, dy): return 2 * x * dy
own_inputs = [1.0, -2.0, 3.0]
""")


@pytest.mark.parametrize("name", RIGHT_PAIRS)
def test_a_right_pair_is_not_blamed_however_it_is_written(file, name):
    found = file(RIGHT_PAIRS[name][0])
    assert [f.line() for f in found.findings] == []


WRONG_PAIRS = pairs(r"""
? layers in numpy, compared with differences -> constant factor 1.001
def own_forward(x, w):
    h = np.tanh(np.asarray(x) @ np.asarray(w))
    return np.maximum(h, 0), (x, w, h)
def own_backward(cache, dy):
    x, w, h = cache
    g = np.where(h > 0, dy, 0) * (1 - h * h)
    return g @ w.T, 1.001 * x.T @ g
own_inputs = draw.normal(size=(4, 3)), draw.normal(size=(3, 2))
? gamma forgotten where it is 1 -> left out
def own_forward(x, g, b):
    m, s = x.mean(-1, keepdims=True), np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    h = (x - m) / s
    return g * h + b, (h, s, g)

def own_backward(c, dy):
    h, s, g = c
    a, q = dy.mean(-1, keepdims=True), (dy * h).mean(-1, keepdims=True)
    return (dy - a - h * q) / s, (dy * h).sum(0), dy.sum(0)

own_inputs = draw.normal(size=(4, 3)), np.ones(3), np.zeros(3)
? wrong in evaluation -> train=False
from jaxnn import Layer

def init(key, shape):
    c = shape[-1]
    return {"g": jnp.ones(c)}, {"m": jnp.zeros(c), "v": jnp.ones(c)}, shape

def forward(p, s, x, *, key=None, train):
    m, v = (x.mean(0), x.var(0)) if train else (s["m"], s["v"])
    i = 1 / jnp.sqrt(v + 1e-5)
    h = (x - m[None]) * i[None]
    return p["g"][None] * h, s, (h, i, p["g"])

def backward(c, dy):
    h, i, g = c
    means = dy.mean(0)[None] + h * (dy * h).mean(0)[None]
    return (g * i)[None] * (dy - means), {"g": (dy * h).sum(0)}

own = Layer(init, forward, backward, "own")
own_inputs = draw.normal(size=(6, 3))
? None for an array -> no gradient
def own_forward(a, b): return a * b, (a, b)
def own_backward(c, dy): return dy * c[1], None
own_inputs = draw.normal(size=(4, 3)), draw.normal(size=(4, 3))
? changed in place after the cache was given it -> in place
def own_forward(x): x = x * 1.0; c = x; x += 1; return x * x, c
def own_backward(x, dy): return 2 * (x + 1) * dy
? its argument changed in place -> its forward changes x in place
def own_forward(x): x *= 2; return x * x, x
def own_backward(x, dy): return 4 * x * dy
? all of dy to every tie -> every entry that equals
def own_forward(x): return x.max(1), (x, x.max(1))
def own_backward(c, dy): x, y = c; return jnp.where(x == y[:, None], dy[:, None], 0)
own_inputs = (np.array([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]]),)
? all of dy to every tie, in numpy -> expected
def own_forward(x): return np.max(x, 1), (x, np.max(x, 1))
def own_backward(c, dy): x, y = c; return np.where(x == y[:, None], dy[:, None], 0)
own_inputs = (np.array([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]]),)
? a counter -> no function
calls = [0]
def own_forward(x): calls[0] += 1; return x * calls[0], calls[0]
def own_backward(n, dy): return n * dy
? random numbers -> no function
def own_forward(x): m = draw.normal(size=x.shape); return x * m, m
def own_backward(m, dy): return m * dy
? kept outside of the cache -> stale
kept = {}
def own_forward(x): kept['x'] = x; return np.sin(x), None
def own_backward(c, dy): return np.cos(kept['x']) * dy
? too few gradients -> 1 gradients for 2 arguments (a, b)
def own_forward(a, b): return a * b, (a, b)
def own_backward(c, dy): return dy * c[1]
own_inputs = draw.normal(size=(4, 3)), draw.normal(size=(4, 3))
? a name that is not there, in numpy -> (mine.py line
def own_forward(a): return np.sin(np.asarray(a)), a
def own_backward(c, dy): return dyy * 2
? cut off where it is long -> at inputs of all sizes only
def own_forward(x): return 2 * x, None
def own_backward(c, dy):
    return 2 * dy * jnp.minimum(1, 50 / jnp.sqrt((dy**2).sum()))
? dy ignored in a loop -> dy is ignored
def own_forward(x):
    y = np.zeros(len(x))
    for i in range(len(x)): y[i] = np.sin(x[i])
    return y, x
def own_backward(x, dy): return np.cos(x)
own_inputs = (np.arange(4.0),)
? infinite, in a loop -> infinite in 4 of 4 entries
def own_forward(x):
    y = np.zeros(len(x))
    for i in range(len(x)): y[i] = np.sin(x[i])
    return y, x
def own_backward(x, dy): return np.inf * dy
own_inputs = (np.arange(4.0),)
? words for a gradient -> expected numbers
def own_forward(x): return x * 2, x
def own_backward(x, dy): return 'abc'
own_inputs = (np.arange(4.0),)
? only where it is large -> at large inputs only
def own_forward(x): return x * x, x
def own_backward(x, dy): return jnp.where(abs(x) > 3, 0, 2 * x * dy)
own_inputs = (draw.uniform(0.5, 2, (4, 3)),)
? only where it is negative -> at random inputs
def own_forward(x): return x * x, x
def own_backward(x, dy): return 2 * abs(x) * dy
own_inputs = (draw.uniform(1, 2, (4, 3)),)
""")


@pytest.mark.parametrize("name", WRONG_PAIRS)
def test_a_wrong_pair_is_found_however_it_hides(file, name):
    text, words = WRONG_PAIRS[name]
    found = file(text, dtypes=("float64",))
    assert found.findings
    assert words in " ".join(f.line() for f in found.findings)


BAD_INPUTS = {  # what is given as inputs -> words of the error
    "'abc'": "got str where numbers are expected",
    "(np.array(['a']),)": "got ndarray where numbers are expected",
    "(np.array([1, 2]),)": "y of int64, expected floating-point",
    "(np.ones((0, 3)),)": "no argument holds floating-point numbers",
    "(np.array([[1.0, np.nan, 2.0]]),)": "own_inputs: got NaN",
    "(object(),)": "got object where numbers are expected",
    "(np.ones((2, 2)), np.ones(3))": "its forward fails on inputs of shapes (2, 2), (3",
}


@pytest.mark.parametrize("inputs", BAD_INPUTS)
def test_inputs_that_cannot_be_are_refused(file, inputs):
    with pytest.raises(JaxnnError) as error:
        file(
            "def own_forward(x): return x * x, x\ndef own_backward(x, dy): return x\n"
            f"own_inputs = {inputs}"
        )
    assert BAD_INPUTS[inputs] in str(error.value)
    assert "For simplicity" not in str(error.value)


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
    assert found.waived == ("own",)


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
        ("own = dense(3)", "own", [], "expected one, without the batch axis"),
        ("own = (lambda x: (x @ x, x), None)", "own", [], "is tuple"),
        ("1 / 0", "own", [], "ZeroDivisionError"),
    ],
)
def test_what_is_no_rule_is_told_what_to_do(file, text, name, shapes, words):
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


def test_a_finding_without_numbers_is_told_and_a_failing_picture_is_not_in_its_way(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "mine.py"
    path.write_text(
        "import numpy as np\n"
        "def own_forward(a, b): return a * b, (a, b)\n"
        "def own_backward(c, dy): return None, None\n"
        "own_inputs = np.ones((4, 3)), np.ones((4, 3))\n"
    )

    def fails(*args, **options):
        raise RuntimeError("no pen")

    monkeypatch.setattr("jaxnn.plots.gradients.errors_by_layer", fails)
    assert main(["compare", f"{path}:own", "--out", str(tmp_path / "x")]) == 1
    said = capsys.readouterr().out
    assert "own: da (a): it returns no gradient for it" in said
    assert "errors.png: RuntimeError: no pen" in said
    result = json.loads((tmp_path / "x" / "gradients.json").read_text())
    assert result["passed"] is False
    assert "it returns no gradient" in (tmp_path / "x" / "gradients.md").read_text()


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("none.py:own", "no such file"),
        ("mine.py", "mine.py:NAME"),
        ("mine.py:own", "mine.py line 1: import nowhere"),
        (".:own", "it is a folder"),
        ("nothing", "no run folder"),
        ("refuses.py:own", "own: no such mode"),
    ],
)
def test_a_target_that_is_none_leaves_no_folder(
    tmp_path, monkeypatch, capsys, target, words
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "mine.py").write_text("import nowhere\n")
    (tmp_path / "refuses.py").write_text(
        "import jax\nfrom jaxnn.errors import JaxnnError\n"
        "@jax.jit\ndef inner(x): raise JaxnnError('own: no such mode')\n"
        "def own_forward(x): return inner(x), x\n"
        "def own_backward(x, dy): return dy\nown_inputs = 1.0\n"
    )
    assert main(["compare", target, "--out", "x"]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert "For simplicity" not in said
    assert not (tmp_path / "x").exists()


def test_inputs_need_not_be_arrays_of_float64(file):
    text = affine() + "\nown_inputs = tuple(a.astype('float32') for a in own_inputs)\n"
    found = file(text)
    assert found.findings == ()
    assert {c.comparison.dtype for c in found.checks} == {"float64", "float32"}
    assert np.all([c.comparison.passed for c in found.checks])


def test_what_is_nan_both_ways_does_not_agree():
    found = {"x": np.array([1.0, np.nan])}
    assert not user_code._agree(found, found)
    assert user_code._agree({"x": np.ones(2)}, {"x": np.ones(2)})
