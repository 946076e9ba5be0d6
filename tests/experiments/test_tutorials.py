"""Every tutorial runs with small settings, and leaves its JSON and its pictures."""

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from experiments import common, turns
from jaxnn.app import demo
from jaxnn.cli import main
from jaxnn.errors import JaxnnError

ROOT = Path(__file__).parents[2]
FEW = {
    "images": 200, "test_images": 100, "batch": 50, "epochs": 1, "seeds": 2,
    "width": 8, "rows": 16, "valley_steps": 5, "frames": 2,
}  # fmt: skip
FEWER = {"images": 200, "test_images": 100, "epochs": 1}
SMALL = {
    "one_number": {"steps": 5},
    "linear_recovery": {"seeds": 2, "batch": 32, "steps": 40},
    "autodiff": {"steps": 5},
    "xor": {"seeds": 8, "steps": 10, "patience": 2},
    "four_equations": {"seeds": 2},
    "separate": {"seeds": 2, "steps": 40, "points": 40, "frames": 2},
    "one_digit": {"images": 4000, "seeds": 2, "hidden": 4},
    "convolution": {"image": 0},
    "batch_norm": FEWER | {"seeds": 2, "depth": 2},
    "lstm_cell": {"seeds": 2, "steps": 8},
    "fooled": FEWER,
    "own_layer": FEWER | {"seeds": 2},
    "design_choices": FEW,
    "automobile": {"seeds": 2, "steps": 5, "hidden": 4},
    "titanic": {"seeds": 1, "steps": 5, "hidden": 4, "rivals": 1},
    "mnist_numpy": {"images": 320, "wide_images": 128, "many_images": 128, "seeds": 2,
                    "rounds": 1},
}  # fmt: skip
QUICK = (  # compiled in a second or two
    "one_number", "linear_recovery", "autodiff", "four_equations", "convolution",
    "lstm_cell", "automobile",
)  # fmt: skip
SHORT = ("one_number", "four_equations", "convolution", "batch_norm", "lstm_cell",
         "fooled", "own_layer")  # fmt: skip
CASES = [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
    for name in SMALL
]


def not_blank(path):
    """Whether a picture has many colors, and a film frames that differ."""
    with Image.open(path) as image:
        frames = []
        for i in {0, getattr(image, "n_frames", 1) - 1}:
            image.seek(i)
            frames.append(np.asarray(image.convert("RGB")))
    moves = len(frames) == 1 or (frames[0] != frames[1]).any()
    return min(frames[0].shape[:2]) > 100 and len(np.unique(frames[0])) > 20 and moves


def test_a_blank_picture_is_found_out(tmp_path):
    Image.new("RGB", (300, 300), "white").save(tmp_path / "blank.png")
    assert not not_blank(tmp_path / "blank.png")


@pytest.mark.parametrize("name", CASES)
def test_it_runs_and_leaves_json_and_pictures(name, tmp_path, monkeypatch, capsys):
    module = importlib.import_module(f"experiments.{name}")
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    with jax.enable_x64(False):  # as a reader runs it
        module.run(module.Args(**SMALL[name]))

    result = json.loads((tmp_path / f"{name}.json").read_text())
    assert result["config"].items() >= SMALL[name].items()
    assert {"values", "versions", "machine", "command", "git"} <= result.keys()
    assert result["values"]["seconds"] > 0
    pictures = list((tmp_path / name).iterdir())
    assert pictures
    assert all(not_blank(path) for path in pictures)
    printed, _, see = capsys.readouterr().out.partition("What to see")
    assert all(str(path) in see for path in pictures)
    assert "Expected and measured" not in printed  # that is for who maintains it
    timed = r".* ms$|.* s for .*|.* s, \d+ side by side .*"
    for line in re.findall(timed, printed, re.MULTILINE):
        assert re.search(r"\d \([\d.e+-]+ to [\d.e+-]+", line), "a time has a spread"


class Clock:
    """Time that passes only where a program says so."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now

    def sleep(self, seconds):
        pass


def test_a_timing_that_was_disturbed_is_repeated_and_shows_its_spread(monkeypatch):
    clock, runs = Clock(), {"quiet": 0, "disturbed": 0, "always": 0}
    monkeypatch.setattr(turns, "time", clock)

    def program(name, seconds):
        def run(number):
            runs[name] += 1
            clock.now += seconds(number)

        return run

    quiet = program("quiet", lambda number: 1.0)
    turns.in_turn({"quiet": quiet}, 4)
    assert runs["quiet"] == 1 + 4
    # another program comes in the first rounds, and goes
    busy = program("disturbed", lambda number: 3.0 if number in (2, 3) else 1.0)
    found = turns.in_turn({"quiet": quiet, "disturbed": busy}, 4)
    assert runs["disturbed"] == 1 + 8
    assert found["disturbed"]["median"] == 1.0
    assert turns.spread(found["quiet"]["seconds"]) == "1 (1 to 1)"
    never = program("always", lambda number: 1.0 + number % 2)
    found = turns.in_turn({"always": never}, 4)
    assert runs["always"] == 1 + 8  # not for ever
    assert turns.spread(found["always"]["seconds"]) == "1.5 (1 to 2, disturbed)"


def test_every_tutorial_has_a_case():
    assert tuple(SMALL) == demo.TUTORIALS


def test_the_short_ones_ask_three_questions_and_answer_them():
    short = [importlib.import_module(f"experiments.{name}") for name in SHORT]
    for module in short:
        asked = (module.__doc__ or "").partition("\nExercises\n")[2]
        for text in (asked, module.ANSWERS):
            assert re.findall(r"^(\d)\. ", text, re.MULTILINE) == ["1", "2", "3"]


def test_the_list_says_of_each_what_and_how_long(capsys):
    assert main(["demo"]) == 0
    printed = capsys.readouterr().out
    assert re.search(
        r"^ *1 +one_number .*One number, one derivative", printed, re.MULTILINE
    )
    for i, (name, time, summary) in enumerate(demo.tutorials(), 1):
        assert re.fullmatch(r"\d+ seconds?", time), name
        assert int(time.split()[0]) <= 90
        assert summary.endswith((".", "?"))
        assert re.search(rf"\b{i} +{name}\b", printed)


def test_a_demo_writes_beside_the_reader_and_its_copy_is_his(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    results = ROOT / "experiments" / "results" / "one_number.json"
    before = results.read_bytes()
    assert main(["demo", "one_number"]) == 0
    assert (tmp_path / "runs/demo-one_number/one_number.json").is_file()
    assert main(["demo", "one_number", "--copy"]) == 0
    copy = tmp_path / "my_one_number.py"
    copy.write_text(copy.read_text().replace("X, T = 2.0, 3.0", "X, T = 2.0, 5.0"))
    assert main(["demo", "my_one_number.py"]) == 0
    assert (tmp_path / "runs/demo-my_one_number/one_number.json").is_file()
    assert results.read_bytes() == before
    with pytest.raises(JaxnnError, match="there already"):
        demo.demo(["one_number", "--copy"])


def test_it_runs_by_name_from_anywhere_and_nothing_of_the_working_folder(
    tmp_path, monkeypatch, capfd
):
    (tmp_path / "experiments").mkdir()
    for name in demo.TUTORIALS:
        (tmp_path / "experiments" / f"{name}.py").write_text("print('of a stranger')")
    (tmp_path / "numpy.py").write_text("raise SystemExit('numpy of a stranger')")
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "autodiff", "--help"]) == 0
    printed = capfd.readouterr().out
    assert "stranger" not in printed
    assert str(ROOT / "experiments" / "autodiff.py") in printed
    assert "--steps" in printed
    assert demo.source_folder() == ROOT


def test_an_unknown_tutorial_is_named_with_the_valid_ones(capsys):
    assert main(["demo", "xxor"]) == 2
    words = capsys.readouterr().err
    assert "'xxor'" in words
    assert all(name in words for name in demo.TUTORIALS)


def test_without_the_source_folder_it_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    elsewhere = tmp_path / "lib" / "jaxnn" / "app" / "demo.py"
    monkeypatch.setattr(demo, "__file__", str(elsewhere))
    with pytest.raises(JaxnnError, match=r"pip install -e \.") as error:
        demo.demo([])
    assert str(tmp_path) in str(error.value)


def test_an_installed_package_has_its_own(tmp_path, monkeypatch, capsys):
    package = tmp_path / "lib" / "jaxnn"
    place = package / demo.INSTALLED / "experiments"
    place.mkdir(parents=True)
    for name in demo.TUTORIALS:
        (place / f"{name}.py").write_text('"""As installed."""\n', "utf-8")
    monkeypatch.setattr(demo, "__file__", str(package / "app" / "demo.py"))
    monkeypatch.chdir(tmp_path)
    assert demo.demo([]) == 0
    assert "As installed." in capsys.readouterr().out
    assert demo.demo(["xor", "--copy"]) == 0
    assert "As installed." in (tmp_path / "my_xor.py").read_text("utf-8")
    with pytest.raises(JaxnnError, match="is for jaxnn's source folder"):
        demo.demo(["xor", "--record"])


def test_the_list_needs_no_jax():
    code = (
        "import sys; from jaxnn.app import demo; demo.tutorials();"
        "print('jax' in sys.modules)"
    )
    command = [sys.executable, "-c", code]
    assert subprocess.check_output(command, cwd=ROOT, text=True) == "False\n"
