"""README's code runs as it stands, and its numbers are those of the results."""

import re
from pathlib import Path

import pytest

from experiments import report
from jaxnn.errors import JaxnnError
from jaxnn.files import write_json

README = Path(__file__).resolve().parent.parent / "README.md"


def test_the_code_in_the_readme_runs(capsys):
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.S)
    assert len(blocks) == 2
    names: dict = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    accuracy = float(capsys.readouterr().out.split("%")[0])
    assert accuracy > 93


def test_a_wrong_sign_in_the_readmes_rule_is_caught():
    block = re.findall(r"```python\n(.*?)```", README.read_text(), re.S)[1]
    wrong = block.replace("dy * jnp.cos(x)", "dy * -jnp.cos(x)")
    assert wrong != block
    with pytest.raises(AssertionError):
        exec(compile("import jax\n" + wrong, "README.md", "exec"), {})


def test_the_readme_agrees_with_the_results():
    text = README.read_text()
    assert report.render(text) == text


@pytest.fixture
def results(tmp_path):
    write_json(tmp_path / "mine.json", {"values": {"a": [0.5, 0.25]}})
    return tmp_path


def test_a_changed_number_is_noticed(results):
    text = "x <!-- value mine:values/a/1 .1% -->25.1%<!-- /value --> y"
    assert report.render(text, results) == text.replace("25.1%", "25.0%")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no marks at all", "nothing to check"),
        (
            "<!-- value mine:values/b .1f -->1<!-- /value -->",
            r"mine\.json has no 'values/b'",
        ),
        ("<!-- value none:a .1f -->1<!-- /value -->", r"none\.json"),
        ("<!-- value mine:values/a/0 .1f -->1", "nothing to check"),
        (
            "<!-- value mine:values/a/0 .1f -->1<!-- /value --> <!-- value mine:q -->",
            "not closed",
        ),
    ],
)
def test_a_broken_mark_is_an_error(results, text, message):
    with pytest.raises(JaxnnError, match=message):
        report.render(text, results)
