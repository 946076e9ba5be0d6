"""Names from folders, files and users stay names in every page."""

import pickle
import re
import subprocess
import sys
from html.parser import HTMLParser
from types import SimpleNamespace
from typing import Any, cast

import jax
import numpy as np
import pytest

from jaxnn import compare_gradients, evaluate, fit, mlp, residual, serial, summary
from jaxnn.app.report import write_report
from jaxnn.check.report import write_page
from jaxnn.data import Dataset, Split
from jaxnn.errors import JaxnnError
from jaxnn.layers import dense, relu
from jaxnn.losses import softmax_cross_entropy
from jaxnn.robustness.report import page
from jaxnn.robustness.threat import Proportion, Threat
from jaxnn.text import ROWS, code, escaped, fenced, html, table
from tests.app.test_report import RESULT

NASTY = "<img src=x onerror=alert(1)>|`a`\n# b ![t](http://x)\x1b[31m \udcff ```"


class _Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found.append(tag)


def _is_only_words(text):
    """Outside code: no HTML, no link or picture of a name, one line stays one line."""
    fence, outside = "", []
    for line in text.splitlines():
        mark = re.match("`{3,}", line)
        if mark and not fence:
            fence = mark[0]
        elif fence and line == fence:
            fence = ""
        elif not fence:
            outside.append(re.sub(r"(?<!\\)`[^`]*`", "", line))
    assert not fence, "a block of code does not end"
    parser = _Tags()
    parser.feed("\n".join(outside))
    assert parser.found == []
    assert not any(re.search(r"(?<!\\)\]\(http", line) for line in outside)
    assert not any(line.startswith("# b") for line in outside)
    assert "\x1b" not in text
    text.encode()
    return outside


def test_words_stay_words():
    _is_only_words(escaped(NASTY))
    _is_only_words(code(NASTY))
    _is_only_words("\n".join(fenced(NASTY)))
    cells = table(("a", "b"), [(escaped(NASTY), code(NASTY))])
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 3 for line in cells)
    assert escaped("784 -> 30, [0, 1], a_b") == "784 -> 30, [0, 1], a_b"


def _renamed(value, name):
    """With `name` for every text, and one more in every table of texts."""
    if isinstance(value, dict):
        more = {name: name} if any(isinstance(v, str) for v in value.values()) else {}
        return {k: _renamed(v, name) for k, v in value.items()} | more
    if isinstance(value, list):
        return [_renamed(v, name) for v in value]
    return name if isinstance(value, str) else value


@pytest.mark.parametrize("name", [NASTY, "plain"])
def test_a_run_with_any_names_has_a_page_of_words(tmp_path, name):
    folder = tmp_path / re.sub(r"[/\udcff\x1b]", "", name)
    folder.mkdir()
    result = _renamed(RESULT, name)
    result["seconds"][name] = 1.0
    result["gradients"]["leaves"][0]["dtype"] = "float32"
    result["gradients"]["not_finite"] = name
    result |= {"problems": [name], "not_drawn": {"curves.png": name}}
    result["guard"]["report"] = [name, "```", name]
    _is_only_words(write_report(folder, result).read_text(encoding="utf-8"))


def test_a_comparison_of_any_title_has_a_page_of_words(tmp_path):
    leaf = {
        "leaf": NASTY, "shape": [2], "dtype": NASTY, "max_abs": 0.0, "ulp_max": 0.0,
        "max_relative": 0.0, "ulp_within": [0, 1.0], "cosine": 1.0, "index": [0],
        "sign_disagreements": 0, "passed": False, "note": NASTY,
    }  # fmt: skip
    result = {
        "passed": False, "title": NASTY, "device": NASTY, "git": NASTY,
        "versions": {NASTY: NASTY},
        "gradients": {
            "not_finite": NASTY, "findings": [{"line": NASTY}],
            "leaves": [leaf], "kinks": {NASTY: 1},
        },
    }  # fmt: skip
    _is_only_words(write_page(tmp_path, result).read_text(encoding="utf-8"))


def test_a_robustness_page_of_any_names_has_words():
    half = Proportion(1, 2)
    found = SimpleNamespace(
        threat=Threat("linf", 0.1), level="fast", clean=half, robust=half, seconds=1.0,
        rounds=[SimpleNamespace(name=NASTY, tried=2, broken=1, alone=half)],
        targeted=half, sample=[0, 1], verdict=NASTY, believable=True,
        not_finite=[], not_attacked=[],
        checks=[SimpleNamespace(id="K1", name=NASTY, verdict="pass", message=NASTY,
                                images=[1])],
        layers=[SimpleNamespace(label=NASTY, ratio=1.0, zero_in=0.0, zero_out=0.0,
                                saturated=None)],
    )  # fmt: skip
    text = page(cast(Any, found), f"Robustness of {NASTY}")
    _is_only_words(text)


def test_what_is_shown_at_a_prompt_is_short(tmp_path):
    x = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int32)
    split = Split(x, y)
    data = Dataset("mine<b>", split, split, split, 2, None)
    assert repr(data) == (
        "<Dataset mine<b>: 40 train, 40 validation, 40 test; 2 classes>"
    )
    assert repr(split) == "<Split: x float32[40, 4], y [40]>"
    net = mlp([4, 2])
    history = fit(net, split, validation=split, epochs=2, batch=20, seeds=[0, 1])
    assert repr(history).startswith("<History: 2 epochs, finished; loss 0.")
    assert history["loss"] == [row["loss"] for row in history.epochs]
    with pytest.raises(JaxnnError, match="Did you mean 'loss'"):
        history["los"]
    assert history._repr_html_().count("<tr>") == 3
    assert "2 epochs, finished" in history._repr_html_()
    found = evaluate(net, history.params, history.state, *split, seeds=True)
    assert len(repr(found)) < 120


def test_a_table_in_a_notebook_is_escaped_indented_and_short():
    assert html(["<b>"], [["1 & 2"], ["  a"]], "<i>") == (
        "<table><tr><th>&lt;b&gt;</th></tr><tr><td>1 &amp; 2</td></tr>"
        "<tr><td>&emsp;a</td></tr></table><p>&lt;i&gt;</p>"
    )
    text = html(["n"], [[str(i)] for i in range(300)])
    assert text.count("<tr>") == ROWS + 2
    assert all(f"<td>{word}</td>" in text for word in ("0", "...", "299"))
    tags = _Tags()
    tags.feed(html([NASTY], [[NASTY]], NASTY))
    assert set(tags.found) == {"table", "tr", "th", "td", "p"}


def test_networks_and_data_are_tables_in_a_notebook():
    net = serial(dense(3), residual(serial(dense(3), relu)))
    text = net._repr_html_()
    assert "<td>1/0/1</td><td>relu</td>" in text
    assert "<td></td><td>dense(3)</td>" in dense(3)._repr_html_()
    costs = summary(net, (3,), batch=10)
    assert repr(costs) == str(costs)
    assert costs.startswith("layer")
    assert "<td>&emsp;&emsp;relu</td><td>(B, 3)</td>" in costs._repr_html_()
    assert costs._repr_html_().endswith("FLOPs</p>")
    again = pickle.loads(pickle.dumps(costs))
    assert again._repr_html_() == costs._repr_html_()
    assert summary(net, (3,), batch=None)._repr_html_().endswith("</table>")

    split = Split(np.zeros((40, 8, 8), np.uint8), np.zeros(40, np.int32))
    data = Dataset("mine", split, split, split, 2, None, ("<b>", "dog"))
    assert "<td>train</td><td>40</td><td>(8, 8)</td><td>uint8</td>" in (
        data._repr_html_()
    )
    assert "mine, 2 classes: &lt;b&gt;, dog" in data._repr_html_()


def test_a_comparison_is_short_at_a_prompt_and_a_table_in_a_notebook():
    net = serial(dense(3), relu, dense(2))
    params, state, _ = net.init(jax.random.key(0), (4,))
    x, y = np.random.default_rng(0).normal(size=(8, 4)), np.arange(8) % 2
    loss = softmax_cross_entropy
    report = compare_gradients(net, loss, params, state, x, y, dtypes=("float64",))
    assert repr(report).startswith("<GradientReport: match: 5 of 5 arrays")
    assert len(repr(report)) < 200
    text = report._repr_html_()
    assert text.count("<tr>") == 1 + len(report.leaves)
    assert "<td>0/w</td><td>4x3</td><td>float64</td>" in text


NOTEBOOK = """
import sys, types

class Widget:
    def __init__(self, *args, **kwargs): self.layout = types.SimpleNamespace()

sys.modules["ipykernel.zmqshell"] = types.ModuleType("ipykernel.zmqshell")
shell = types.SimpleNamespace(get_ipython=lambda: None)
sys.modules["IPython"] = shell
sys.modules["IPython.display"] = types.SimpleNamespace(display=print)
sys.modules["ipywidgets"] = WIDGETS
from jaxnn.text import bar

with bar(total=2, disable=True) as shown:
    shown.update()
    shown.set_postfix_str("loss 1")
print(any(kind.__name__ == "tqdm_notebook" for kind in type(shown).__mro__))
"""
FAKE = "types.SimpleNamespace(HTML=Widget, FloatProgress=Widget, HBox=Widget)"


@pytest.mark.parametrize(("widgets", "own"), [(FAKE, "True"), ("None", "False")])
def test_a_notebook_has_its_own_bar_where_ipywidgets_is(widgets, own):
    code = NOTEBOOK.replace("WIDGETS", widgets)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == (f"{own}\n", "")
