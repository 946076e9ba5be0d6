"""The pages' code runs as it stands, and their numbers are those of the results."""

import re
import shlex

import pytest

from experiments import report
from jaxnn import cli, data
from jaxnn.data.datasets import Split
from jaxnn.errors import JaxnnError
from jaxnn.files import write_json

TEXTS = {str(p.relative_to(report.ROOT)): p.read_text() for p in report.PAGES}
BLOCKS = {
    f"{name}, {number}": block
    for name, text in TEXTS.items()
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", text, re.S))
}
COMMANDS = [
    line.partition("#")[0].strip()
    for text in TEXTS.values()
    for block in re.findall(r"```sh\n(.*?)```", text, re.S)
    for line in block.splitlines()
    # a run to resume must be there; `demo` has no settings
    if re.match("jaxnn (?!demo)", line) and "--resume" not in line
]


@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_of_code_runs_alone(name, capsys, monkeypatch):
    first = name == "README.md, 0"
    if not first:
        monkeypatch.setattr("jaxnn.data.load", few_images)
    exec(compile(BLOCKS[name], name, "exec"), {})
    if first:  # it learns the digits
        assert float(capsys.readouterr().out.split("%")[0]) > 93


def few_images(name, load=data.load):
    found = load(name)
    return found._replace(train=Split(*(a[:2000] for a in found.train)))


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_is_well_formed(line):
    name, *words = shlex.split(line)[1:]
    assert cli.settings(name, cli.COMMANDS[name], words) is not None


def test_the_first_page_is_one_page():
    assert len(TEXTS["README.md"].splitlines()) <= 150


def test_a_wrong_sign_in_the_readmes_rule_is_caught():
    block = BLOCKS["README.md, 1"]
    wrong = block.replace("dy * jnp.cos(x)", "dy * -jnp.cos(x)")
    assert wrong != block
    with pytest.raises(AssertionError):
        exec(compile(wrong, "README.md", "exec"), {})


@pytest.mark.parametrize("name", TEXTS)
def test_the_pages_agree_with_the_results(name):
    assert report.render(TEXTS[name]) == TEXTS[name]


@pytest.mark.parametrize("name", TEXTS)
def test_what_a_page_links_to_is_there(name):
    folder = (report.ROOT / name).parent
    targets = re.findall(r"\]\(([^)#]+)\)", TEXTS[name])
    assert [t for t in targets if "://" not in t and not (folder / t).exists()] == []


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
