"""The page says every number of the result, and says so where there is none."""

import re

import numpy as np
import pytest

from jaxnn.app.report import PICTURES, write_report
from jaxnn.errors import JaxnnError

RESULT = {
    "test_accuracy": [0.9812, 0.9805, 0.9821], "mean": 0.98127, "std": 0.00081, "n": 3,
    "test_images": 10000, "epochs": 12, "best_epoch": [9, 11, 8],
    "stopped": "early stopping", "parameters": 25818, "steps_skipped": 17,
    "seconds": {
        "import": 0.81, "compile": 1.23, "train": 9.37, "total": 13.14,
        "to_first_step": 2.5,
    },
    "gradients": {
        "float32_max_relative": 3.1e-7, "float64_max_relative": 4.4e-16, "passed": True,
        "leaves": [
            {"dtype": "float32", "leaf": "dense 1, w", "max_relative": 3.1e-7},
            {"dtype": "float64", "leaf": "dense 0, b", "max_relative": 4.4e-16},
        ],
    },
    "adversarial": {
        "fgsm_0.1": [0.11, 0.12, 0.13], "pgd40_0.1": 0.0312, "worst": 0.03,
        "images": 1000, "sample": "seeded stratified sample", "epsilon": 0.1,
        "norm": "linf", "steps": 40, "step_size": 0.01,
        "note": "FGSM flatters by 9 points",
    },
    "problems": [], "not_drawn": {}, "guard": {"policy": "skip", "report": []},
    "config": {
        "validation": 5000, "keep": "best", "lr": 0.001, "hidden": [30, 20],
        "patience": None, "note": "a|b",
    },
    "network": {"names": ["zero", "o|ne"]}, "summary": "dense  784 -> 30   23550\nrelu",
    "versions": {
        "jaxnn": "0.1.0", "jax": "0.10.2", "jaxlib": "0.10.1", "numpy": "2.4.6",
        "optax": "0.2.8", "python": "3.11.9",
    },
    "device": "cpu, 2 cores", "git": "abc1234",
}  # fmt: skip

SAID = [
    "often. FGSM flatters by 9 points.",
    "# Test accuracy 98.13% +- 0.08 (3 seeds)",
    "all 10,000 test images",
    "98.12%, 98.05%, 98.21%",
    "| classes | zero, o\\|ne |",
    "| epochs trained | 12 |",
    "| epoch of the parameters (the best by validation) | 9, 11, 8 |",
    "| why training ended | early stopping |",
    "| parameters | 25,818 |",
    "| steps skipped (loss or gradient not finite) | 17 |",
    "784 -> 30   23550\nrelu",
    "**They agree.**",
    "| float32 | 3.1e-07 | dense 1, w |",
    "| float64 | 4.4e-16 | dense 0, b |",
    "| none | 0 | all 10,000 test images | 98.13% +- 0.08 (3 seeds) |",
    "| FGSM | 0.1 | seeded stratified sample of 1,000 | 12.00% +- 1.00 (3 seeds) |",
    "| PGD, 40 steps | 0.1 | seeded stratified sample of 1,000 | 3.12% |",
    "at most 0.1 in the Linf",
    "where a pixel goes from 0 to 1",
    "PGD takes 40 steps of 0.01",
    "| compiling | 1.23 |",
    "| importing JAX and jaxnn | 0.81 |",
    "| training, validation included | 9.37 |",
    "| the whole command | 13.14 |",
    "| to first step | 2.50 |",
    "| worst case per image | 0.1 | seeded stratified sample of 1,000 | 3.00% |",
    "| device | cpu, 2 cores |",
    "| git | abc1234 |",
    *(f"| {name} | {v} |" for name, v in RESULT["versions"].items()),
    "| `lr` | 0.001 |",
    "| `hidden` | 30, 20 |",
    "| `patience` | none |",
    r"| `note` | a\|b |",
]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = write_report(tmp_path_factory.mktemp("run"), RESULT)
    assert path.name == "report.md"
    return path.read_text()


def test_the_page_says_all_of_a_whole_result(page):
    assert [words for words in SAID if words not in page] == []
    assert "not measured" not in page


def test_it_ends_with_the_commands_to_go_on(tmp_path):
    page = write_report(tmp_path / "my run", RESULT).read_text()
    assert f"jaxnn eval '{tmp_path}/my run' " in page
    assert f"jaxnn predict '{tmp_path}/my run' IMAGE.png" in page


def test_only_pictures_that_exist_are_shown(tmp_path):
    page = write_report(tmp_path, RESULT).read_text()
    assert "![" not in page
    shown = list(PICTURES)[1:3]
    for name in shown:
        (tmp_path / name).write_bytes(b"")
    page = write_report(tmp_path, RESULT).read_text()
    assert re.findall(r"!\[.*\]\((.*)\)", page) == shown
    assert page.count("Of several seeds, the first.*") == 2
    page = write_report(tmp_path, RESULT | {"n": 1}).read_text()
    assert "Of several seeds" not in page


def test_what_was_not_measured_is_said(tmp_path):
    failed = {"gradients": None, "adversarial": None, "problems": ["not finite"]}
    page = write_report(tmp_path, RESULT | failed).read_text()
    assert page.startswith("# Failed\n\n**not finite.**")
    assert "Whether they agree was not measured." in page
    assert "Accuracy under attack was not measured." in page
    assert "None" not in page


GRADIENTS, ADVERSARIAL = RESULT["gradients"], RESULT["adversarial"]
VARIANTS = {
    "one seed": (
        {"test_accuracy": [0.98], "n": 1},
        "# Test accuracy 98.00% (1 seed, so no spread)",
    ),
    "NumPy's numbers": ({"parameters": np.int64(1234)}, "| parameters | 1,234 |"),
    "NumPy's arrays": ({"best_epoch": np.array([3, 4])}, "validation) | 3, 4 |"),
    "no validation": (
        {"config": {"validation": 0, "keep": "last"}},
        "| epoch of the parameters (the last, without validation) | 9, 11, 8 |",
    ),
    "the last": (
        {"config": {"validation": 5, "keep": "last"}}, "the parameters (the last, as",
    ),
    "a difference that is not finite": (
        {
            "gradients": GRADIENTS | {
                "float64_max_relative": float("inf"),
                "leaves": [
                    {"dtype": "float64", "leaf": "0/w", "max_relative": 1e-3},
                    {"dtype": "float64", "leaf": "1/b", "max_relative": None},
                ],
            }
        },
        "| float64 | not finite | 1/b |",
    ),
    "gradients differ": ({"gradients": GRADIENTS | {"passed": False}}, "do not agree"),
    "all images attacked": (
        {"adversarial": ADVERSARIAL | {"pgd40_0.1": 0.5, "sample": "all"}},
        "| PGD, 40 steps | 0.1 | all 10,000 test images | 50.00% |",
    ),
    "a line break in a cell": ({"device": "cpu\n2 cores"}, "| device | cpu 2 cores |"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "words"), VARIANTS.values(), ids=VARIANTS)
def test_variants(change, words, tmp_path):
    assert words in write_report(tmp_path, RESULT | change).read_text()


def test_every_table_has_as_many_cells_in_each_row(page):
    widths = []
    for line in page.splitlines():
        if line.startswith("|"):
            widths.append(len(re.findall(r"(?<!\\)\|", line)))
        elif widths:
            assert len(set(widths)) == 1
            widths = []


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(JaxnnError, match="cannot write"):
        write_report(tmp_path / "file", RESULT)
