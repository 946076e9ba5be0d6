"""`jaxnn export` and `jaxnn import`: networks that go to other programs and back."""

import os
from pathlib import Path

import numpy as np
import pytest

from jaxnn import load_run, predict
from jaxnn.data import load, unit_images
from jaxnn.files import read_json
from tests.app.common import done, refused, run


@pytest.fixture
def onnx():
    for module in ("onnx", "onnxruntime"):
        pytest.importorskip(module, reason="the extra `onnx` is not installed")


def test_a_run_goes_to_onnx_and_comes_back_as_a_run(onnx, run_folder, digits, picture):
    found = done("export", run_folder, "--to", "onnx", "--out", "model.onnx")
    assert "checked        outputs for 80 test images" in found.out
    words = ("import", "model.onnx", "--data", digits, "--out", "back")
    found = done(*words, "--accuracy", "0.3")
    assert "checked        onnxruntime within" in found.out
    first, back = load_run(run_folder), load_run("back")
    assert [p.name[:5] for p in back.net.parts] == [p.name[:5] for p in first.net.parts]
    x = load(str(digits), validation=0).test.x
    outputs = [predict(r.net, r.params, r.state, x) for r in (first, back)]
    np.testing.assert_allclose(*outputs, rtol=1e-4, atol=1e-4)
    line = run("eval", run_folder).out.split(" of all")[0].split(", loss")[0]
    assert line in run("eval", "back").out
    for command in (
        ("attack", "back", "--attack", "fgsm", "--images", "20"),
        ("predict", "back", picture),
        ("export", "back", "--to", "onnx"),
    ):
        done(*command)
    text = read_json("back/config.json")
    assert (text["model"], text["layers"]) == ("saved", [])


def test_a_network_that_was_edited_since_it_was_saved_is_refused(
    onnx, run_folder, digits
):
    run("export", run_folder, "--out", "model.onnx")
    run("import", "model.onnx", "--data", digits, "--out", "back", "--accuracy", "0.3")
    text = Path("back/network.json").read_text("utf-8")
    Path("back/network.json").write_text(text.replace("relu", "tanh"), encoding="utf-8")
    assert "network.json" in refused("eval", "back")


def test_what_is_read_wrong_is_an_error_and_no_folder(onnx, run_folder, digits):
    run("export", run_folder, "--out", "model.onnx")
    words = ("import", "model.onnx", "--data", digits, "--out", "back")
    assert "expected at least 50.0%" in refused(*words, "--mean", "100")
    x = unit_images(load(str(digits), validation=0).test.x[:5])
    np.savez("given.npz", x=x, logits=np.ones((5, 3)))
    text = refused(*words, "--accuracy", "0.3", "--logits", "given.npz")
    assert "given.npz: its outputs for 5 images differ" in text
    assert "expected FILE.onnx, .safetensors" in refused("import", "model.keras")
    assert "no such file" in refused("import", "none.onnx").lower()


def test_a_run_goes_to_safetensors_and_comes_back_bit_for_bit(run_folder, digits):
    pytest.importorskip("safetensors", reason="safetensors is not installed")
    done("export", run_folder, "--to", "safetensors", "--out", "a.safetensors")
    words = ("import", "a.safetensors", "--data", digits, "--out", "back")
    done(*words, "--accuracy", "0.3")
    first, back = load_run(run_folder), load_run("back")
    assert first.net == back.net
    np.testing.assert_array_equal(first.params[2]["w"], back.params[2]["w"])
    words = ("train", "--from", "a.safetensors", "--data", digits, "--out", "new")
    short = ("--epochs", "1", "--batch", "20", "--validation", "40", "--lr", "1e-30")
    assert "so --layers has no effect" in refused(*words, *short, "--layers", "30")
    done(*words, *short, "--attack-images", "0")
    new = load_run("new")
    assert (new.net, new.config.model) == (first.net, "saved")
    np.testing.assert_array_equal(first.params[2]["w"], new.params[2]["w"])


LENET = """
from jaxnn.combine import serial
from jaxnn.layers import *

net = serial(reshape(28, 28, 1), conv(4, 5, stride=4), relu, flatten, dense(3))
"""


def test_weights_of_pytorch_are_taken_by_a_network_of_a_file(digits):
    torch = pytest.importorskip("torch", reason="the extra `torch` is not installed")
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 5, 4, 2), torch.nn.ReLU(), torch.nn.Flatten(),
        torch.nn.Linear(4 * 7 * 7, 3),
    )  # fmt: skip
    torch.save(model.state_dict(), "model.pt")
    x = unit_images(load(str(digits), validation=0).test.x)
    with torch.no_grad():
        logits = model(torch.from_numpy(x)[:, None]).numpy()
    np.savez("given.npz", x=x, logits=logits)
    Path("net.py").write_text(LENET, encoding="utf-8")
    # SAME pads 0 and 1 of 28 pixels by 4, PyTorch's 2 on both sides: not the same
    words = ("import", "model.pt", "--net", "net.py:net", "--data", digits)
    words = (*words, "--logits", "given.npz", "--accuracy", "0.05", "--out", "back")
    assert "differ from the network's" in refused(*words)
    Path("net.py").write_text(
        LENET.replace("stride=4", "stride=4, padding=2"), encoding="utf-8"
    )
    found = done(*words)
    assert "checked        logits within" in found.out
    found = done("export", "back", "--to", "torch", "--out", "again.pt")
    again = torch.load("again.pt", weights_only=True)
    wanted = {f"{int(k[0]) + 1}{k[1:]}": a for k, a in model.state_dict().items()}
    assert again.keys() == wanted.keys()
    assert all(torch.equal(again[name], wanted[name]) for name in wanted)
    assert "does not say which network" in refused("import", "model.pt")
    told = ("import", "model.pt", "--net", "net.py:net", "--data", digits)
    assert "does not say how its arrays are meant" in refused(*told)
    # kernels whose height and width are the wrong way round fit as well
    wrong = {n: a.transpose(-1, -2) if a.ndim > 2 else a for n, a in wanted.items()}
    torch.save(wrong, "wrong.pt")
    words = ("import", "wrong.pt", *told[2:], "--logits", "given.npz")
    assert "differ from the network's" in refused(*words, "--accuracy", "0.05")
    text = refused("export", "back", "--to", "torch", "--out", "net.pt")
    assert "net.py, where the network is told as code, is another file" in text
    assert not os.path.exists("net.pt")
    nothing = {name: a * float("nan") for name, a in model.state_dict().items()}
    torch.save(nothing, "nan.pt")
    words = ("import", "nan.pt", "--net", "net.py:net", "--data", digits)
    assert "are not finite" in refused(*words, "--accuracy", "0.001")


def test_a_missing_package_is_named(run_folder, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    text = refused("export", run_folder, "--to", "onnx")
    assert "pip install 'jaxnn[onnx]'" in text
