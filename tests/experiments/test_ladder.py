"""The ladder's clock, and the command for a GPU, whole at a small size."""

import json

import pytest

from experiments import common, gpu, ladder
from jaxnn.app.config import RECIPES


def test_every_rung_has_a_recipe():
    assert {name for name, _ in ladder.TARGETS.values()} <= set(RECIPES)


def test_a_part_that_fails_is_told_and_the_others_run(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(common, "RESULTS", tmp_path)

    def broken(small):
        raise RuntimeError("no such card")

    monkeypatch.setattr(gpu, "PARTS", {"broken": broken, "whole": lambda small: {}})
    gpu.run(gpu.Args(small=True))
    values = json.loads((tmp_path / "gpu-small.json").read_text())["values"]
    assert values["broken"]["found"] == {"failed": "RuntimeError: no such card"}
    assert values["whole"]["found"] == {}
    assert "no such card" in capsys.readouterr().out


@pytest.mark.slow
def test_the_gpu_command_runs_whole(monkeypatch, tmp_path):
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    gpu.run(gpu.Args(small=True))
    values = json.loads((tmp_path / "gpu-small.json").read_text())["values"]
    assert list(values) == list(gpu.PARTS)
    assert not {k for k, v in values.items() if "failed" in v["found"]}, values
    assert values["tests"]["found"]["status"] == 0
    (row,) = values["ladder"]["found"]["99.0"]["rows"]
    assert 0 < row["seconds_without_compiling"] < row["seconds"]
    assert values["train"]["found"]["pgd"]["images"] == 500
    assert values["bench_tf32"]["found"]["784-30-10"]["programs"]["jaxnn"]["median"] > 0
