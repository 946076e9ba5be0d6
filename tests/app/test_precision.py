"""`--precision bfloat16`: trained so, compared with float32, never half twice."""

import pytest

from jaxnn.files import read_json
from tests.app.common import TINY, done, refused, write_folder

MIXED = ("--precision", "bfloat16")


@pytest.mark.filterwarnings("ignore:precision bfloat16")
def test_a_run_in_mixed_precision_is_compared_with_float32(tmp_path):
    data, out = write_folder(tmp_path / "data", 6), tmp_path / "run"
    words = ("--data", data, *TINY, *MIXED, "--attack-images", 0, "--out", out)
    trained = done("train", *words)
    assert "products in bfloat16" in trained.out
    done("train", "--resume", out)
    found = done("compare", out, "--out", tmp_path / "compared")
    assert "gradient in bfloat16" in found.out
    result = read_json(tmp_path / "compared" / "gradients.json")
    assert {leaf["dtype"] for leaf in result["gradients"]["leaves"]} == {
        "float32", "float64"
    }  # fmt: skip
    errors = {e["leaf"]: e for e in result["precision"]["errors"]}
    assert errors.keys() == {"all of them", "input", "2/w", "2/b", "4/w", "4/b"}
    assert 0 < errors["all of them"]["relative_norm"] < 0.1
    assert "In mixed precision" in (tmp_path / "compared" / "gradients.md").read_text()


@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
def test_one_precision_is_enough(dtype):
    assert "needs --dtype float32" in refused("train", *MIXED, "--dtype", dtype)


@pytest.mark.filterwarnings("ignore:precision bfloat16")
def test_an_attack_in_mixed_precision_says_so(digits, tmp_path):
    words = ("train", *TINY, "--data", digits, "--attack-images", 0, "--quiet")
    done(*words, "--out", "run")
    done("attack", "run", *MIXED, "--steps", 3)
    (path,) = (tmp_path / "run" / "attacks").glob("*bfloat16.json")
    assert "--precision bfloat16" in read_json(path)["command"]
    said = refused("attack", "run", *MIXED, "--attack", "deepfool")
    assert "deepfool has no setting --precision" in said
    done(*words, "--out", "wide", "--dtype", "float64")
    assert "expected float32" in refused("attack", "wide", *MIXED)
