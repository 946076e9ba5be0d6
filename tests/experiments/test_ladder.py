"""The ladder's clock, and the command for a GPU, whole at a small size."""

import json
import time

import pytest

from experiments import common, gpu, ladder
from jaxnn.app.config import RECIPES


def test_every_rung_has_a_recipe():
    assert {name for name, _ in ladder.TARGETS.values()} <= set(RECIPES)


def test_a_part_that_fails_is_told_and_the_others_run(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(common, "RESULTS", tmp_path)

    def broken(small):
        raise RuntimeError("no such card")

    def endless(small):
        while True:
            time.sleep(0.01)

    parts = {
        "broken": gpu.Part(broken, 9), "endless": gpu.Part(endless, 1),
        "whole": gpu.Part(lambda small: {}, 9),
    }  # fmt: skip
    monkeypatch.setattr(gpu, "PARTS", parts)
    gpu.run(gpu.Args())
    values = json.loads((tmp_path / "gpu.json").read_text())["values"]
    assert values["broken"]["found"] == {"failed": "RuntimeError: no such card"}
    assert values["endless"]["found"] == {"failed": "TimeoutError: it may take 1 s"}
    assert values["whole"]["found"] == {}
    assert "no such card" in capsys.readouterr().out


def test_all_parts_are_done_in_eight_minutes():
    assert sum(part.seconds for part in gpu.PARTS.values()) <= 8 * 60


@pytest.mark.slow
def test_the_gpu_command_runs_whole(monkeypatch, tmp_path):
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    gpu.run(gpu.Args(small=True))
    values = json.loads((tmp_path / "gpu-small.json").read_text())["values"]
    assert values.keys() == gpu.PARTS.keys() | {"seconds"}
    assert not [k for k in gpu.PARTS if "failed" in values[k]["found"]], values
    assert values["tests"]["found"]["status"] == 0
    (row,) = values["ladder"]["found"]["99.0"]["rows"]
    assert 0 < row["seconds_without_compiling"] < row["seconds"]
    for precision in ("float32", "bfloat16"):
        assert values["train"]["found"][f"pgd_{precision}"]["images"] == 500
    tables = {
        name: values[f"bench_{name}"]["found"]["784-30-10"]["programs"]
        for name in gpu.PRECISIONS
    }
    assert tables["tf32"]["jaxnn"]["median"] > 0
    assert tables["bfloat16"][gpu.HALF]["times_jaxnn_bfloat16"] == 1
    assert gpu.HALF not in tables["float32"]
