"""Results can be read anywhere: no path of the machine that measured them."""

import re
from pathlib import Path

import experiments
from experiments.common import relative

ROOT = Path(experiments.__file__).parents[1]
ABSOLUTE = re.compile(r'"(/|[A-Za-z]:\\|~)[^"]*/[^"]*"')


def test_paths_are_recorded_relative_to_the_project():
    given = {"line": f"{ROOT}/experiments/xor.py:3", "found": [(f"{ROOT}/a", 1.5)]}
    assert relative(given) == {"line": "experiments/xor.py:3", "found": [["a", 1.5]]}


def test_no_committed_result_holds_a_path_of_a_machine():
    assert ABSOLUTE.search('{"line": "/somewhere/x/y.py:3"}')
    results = sorted((ROOT / "experiments" / "results").glob("*.json"))
    assert results
    assert [p.name for p in results if ABSOLUTE.search(p.read_text())] == []
