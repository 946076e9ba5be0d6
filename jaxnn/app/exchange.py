"""`jaxnn export` and `jaxnn import`: networks to and from other programs, checked."""

import math
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxnn.app.build import Experiment, build, facts_of
from jaxnn.app.compile_cache import enable_compile_cache
from jaxnn.app.config import SAVED, ExportConfig, ImportConfig, TrainConfig
from jaxnn.app.folder import (
    data_of,
    first_of,
    fresh_folder,
    open_run,
    save_config,
    save_network,
)
from jaxnn.app.streams import note
from jaxnn.check.user_code import load_user_code
from jaxnn.combine import serial, split_last
from jaxnn.data import load, unit_images
from jaxnn.environment import surroundings
from jaxnn.errors import JaxnnError, first_line, need
from jaxnn.files import open_file, read_text, write_json, write_text, write_with
from jaxnn.interop.onnx_in import Imported, from_onnx
from jaxnn.interop.onnx_out import to_onnx
from jaxnn.interop.weights import load_weights, save_safetensors, to_torch
from jaxnn.layers import Layer, standardize
from jaxnn.losses import LOSSES
from jaxnn.train import evaluate, predict
from jaxnn.train.inputs import init_shapes

SAMPLE = 1000  # test images on which both programs are compared
CLOSE = 1e-5  # of outputs of size 1: what another order of summation may change
ROUNDING = 1e-4  # the same of any network, however large its inner values are
SURE = 0.5  # least accuracy, where nothing else says that a file was read right
ENDINGS = {"onnx": "onnx", "safetensors": "safetensors", "torch": "pt"}


def export_run(config: ExportConfig) -> dict[str, Any]:
    """Write a run's network for another program, which must give the same outputs."""
    need(config.to, *(("onnx", "onnxruntime") if config.to == "onnx" else ()))
    enable_compile_cache()
    run = open_run(config.run)
    network = Imported(run.net, *first_of(run), run.facts.in_shape)
    x = unit_images(data_of(run, config.data).test.x[:SAMPLE])
    path = config.out or run.folder / f"model.{ENDINGS[config.to]}"
    make = {"onnx": _to_onnx, "safetensors": _to_safetensors, "torch": _to_torch}
    got, write = make[config.to](path, network, x)
    difference = _compared(network, x, got, str(path))
    write()
    print(
        f"checked        outputs for {len(x):,} test images: largest relative "
        f"difference {difference:.1e}\nsaved to       {path}"
    )
    return {"path": str(path), "images": len(x), "difference": difference}


def _to_onnx(path, network, x):
    """What onnxruntime makes of x, and what writes the file; so do those below."""
    model = to_onnx(*network).SerializeToString()
    return _run_onnx(model, x), lambda: write_with(path, lambda f: f.write(model))


def _to_safetensors(path, network, x):
    with tempfile.TemporaryDirectory() as folder:
        there = Path(folder) / "model.safetensors"
        save_safetensors(there, network)
        again, whole = load_weights(there), there.read_bytes()
    got = predict(again.net, again.params, again.state, x)
    return got, lambda: write_with(path, lambda f: f.write(whole))


def _to_torch(path, network, x):
    import torch

    source, arrays = to_torch(network)
    beside = path.with_suffix(".py")  # which nobody named: no other file's place
    if os.path.exists(beside) and read_text(beside) != source:
        raise JaxnnError(
            f"export: {beside}, where the network is told as code, is another file; "
            "move it, or give another --out"
        )
    tensors = {name: torch.from_numpy(np.array(a)) for name, a in arrays.items()}
    made: dict[str, Any] = {}
    exec(compile(source, "model.py", "exec"), made)  # ours, written just now
    made["model"].load_state_dict(tensors)
    images = np.ascontiguousarray(np.moveaxis(x, -1, 1) if x.ndim > 3 else x)
    with torch.no_grad():
        got = made["model"].eval()(torch.from_numpy(images)).numpy()

    def write():
        write_with(path, lambda file: torch.save(tensors, file))
        write_text(beside, source)

    return got, write


def _run_onnx(model: bytes | str, x: np.ndarray) -> np.ndarray:
    """The outputs that onnxruntime gives; in batches of one where the file says so."""
    import onnxruntime

    kinds = {
        "tensor(float)": np.float32, "tensor(double)": np.float64,
        "tensor(float16)": np.float16,
    }  # fmt: skip
    try:
        session = onnxruntime.InferenceSession(model)
        (given,) = session.get_inputs()
        (out,) = (o.name for o in session.get_outputs() if o.type in kinds)
        shape = [d if isinstance(d, int) else -1 for d in given.shape]
        if len(shape) == 4 and (*shape[2:], shape[1]) == x.shape[1:]:
            x = np.moveaxis(x, -1, 1)  # its channels are first
        x, size = np.ascontiguousarray(x, kinds[given.type]), math.prod(x.shape[1:])
        rows = len(x) if shape[0] < 0 else math.prod(shape) // size
        parts = [
            session.run([out], {given.name: x[i : i + rows].reshape(shape)})[0]
            for i in range(0, len(x) - rows + 1, rows)
        ]
        return np.concatenate([part.reshape(rows, -1) for part in parts])
    except Exception as error:  # onnxruntime has exceptions of its own
        raise JaxnnError(f"onnxruntime cannot run it: {first_line(error)}") from error


def _compared(network: Imported, x, got, where: str, close: float = CLOSE) -> float:
    """The largest difference of outputs, relative to those above 1.

    Raises:
      JaxnnError: it is more than rounding.
    """
    want = predict(network.net, network.params, network.state, x)
    got = np.asarray(got, np.float64).reshape(len(got), -1)
    if got.shape != want[: len(got)].shape:
        raise JaxnnError(f"{where}: outputs {got.shape}, expected {want.shape}")
    error = np.abs(got - want[: len(got)]) / np.maximum(np.abs(got), 1)
    if not error.max() <= close:
        raise JaxnnError(
            f"{where}: its outputs for {len(got)} images differ from the network's by "
            f"up to {error.max():.2g}, expected at most {close:g}: something in it is "
            "read otherwise here, and nothing was written"
        )
    return float(error.max())


# ---- in


def import_run(config: ImportConfig) -> dict[str, Any]:
    """Make a run folder of a network from elsewhere, if it does what it should."""
    kind = config.file.suffix.removeprefix(".")
    kind = {"pt": "torch", "pth": "torch"}.get(kind, kind)
    if kind not in ENDINGS:
        raise JaxnnError(
            f"import: got {config.file}, expected FILE.onnx, .safetensors, .pt or .pth"
        )
    if config.net is not None and config.accuracy is config.logits is None:
        raise JaxnnError(
            f"import: {config.file} does not say how its arrays are meant; give what "
            "the network reached where it was trained, --accuracy 0.989, or --logits"
        )
    with open_file(config.file, "a network"):
        need(kind, *(("onnx", "onnxruntime") if kind == "onnx" else ()))
    enable_compile_cache()
    data = load(config.data, validation=0, say=note)
    facts, x = facts_of(data), unit_images(data.test.x)
    network = _read(config, kind, facts.in_shape)
    checks = {
        name: _compared(network, given, got, str(path), ROUNDING)
        for name, path, given, got in _outputs_told(config, kind, x)
    }
    if config.mean is not None or config.std is not None:
        net = serial(standardize(config.mean or 0.0, config.std or 1.0), network.net)
        network = Imported(
            net, ((), network.params), ((), network.state), network.in_shape
        )
    e = _experiment(network.net, config.data, facts)
    checks["accuracy"] = _accuracy(config, e, network, data)
    with fresh_folder(config.out, config.file.stem) as folder:
        save_config(folder, e)
        save_network(folder, {"params": network.params, "state": network.state}, e)
        result = {"file": str(config.file), "checked": checks, **surroundings()}
        write_json(folder / "import.json", result)
    for name, value in checks.items():
        shown = f"{100 * value:.2f}%" if name == "accuracy" else f"within {value:.1e}"
        print(f"checked        {name} {shown}, {data.name}")
    if config.accuracy is None:
        print(
            "not checked    whether pixels are scaled as in training; --accuracy says "
            "what it reached there"
        )
    print(f"saved to       {folder}")
    return result


def _read(config, kind, in_shape) -> Imported:
    if kind == "onnx":
        if config.net is not None:
            raise JaxnnError("--net has no effect here: an ONNX file says its network")
        return from_onnx(config.file, in_shape)
    net: Any = None
    if config.net is not None:
        net = load_user_code(config.net).what
        if not isinstance(net, Layer):
            raise JaxnnError(f"--net {config.net}: got a rule, expected a layer")
    network = load_weights(config.file, net, in_shape)
    if net is not None and network.net != net:
        raise JaxnnError(f"--net has no effect here: {config.file} says its network")
    if network.in_shape != in_shape:
        raise JaxnnError(
            f"{config.file}: takes {network.in_shape}, but {config.data} has images "
            f"{in_shape}; give others with --data"
        )
    return network


def _outputs_told(config, kind, x) -> Iterator[tuple[str, Path, Any, Any]]:
    """Name and file of who says what the outputs are; for which images, and these."""
    if kind == "onnx":
        x = x[:SAMPLE]
        yield "onnxruntime", config.file, x, _run_onnx(str(config.file), x)
    if (path := config.logits) is None:
        return
    with open_file(path, "an .npz with x and logits") as file:
        try:
            arrays = np.load(file, allow_pickle=False)
            x, logits = np.asarray(arrays["x"], np.float32), arrays["logits"]
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise JaxnnError(
                f"{path}: expected an .npz with x, images as the network takes them, "
                f"and logits ({error})"
            ) from error
    yield "logits", path, x, logits


def _accuracy(config, e, network, data) -> float:
    """The accuracy; raises where it says that the file was read wrong."""
    found = evaluate(e.net, *network[1:3], *data.test, loss=e.loss)
    if not np.isfinite(found.outputs).all():
        raise JaxnnError(
            f"{config.file}: its outputs for test images of {config.data} are not "
            "finite; nothing was written"
        )
    accuracy, told = float(found.accuracy), config.accuracy
    least = SURE if told is None else told - 0.005
    if accuracy < least:
        raise JaxnnError(
            f"{config.file}: its accuracy on {config.data} is {100 * accuracy:.2f}%, "
            f"expected at least {100 * least:.1f}%. Its inputs may be scaled otherwise "
            "(--mean 0.1307 --std 0.3081), its layers or arrays in another order; "
            "nothing was written. --accuracy says what it should reach"
        )
    return accuracy


def _experiment(net: Layer, data: str, facts: Any) -> Experiment:
    """What a run of a network from elsewhere is: its training is not known."""
    output = ending(net)
    names = ("softmax_cross_entropy", "nll", "quadratic")
    loss = next(name for name in names if output in LOSSES[name].outputs)
    config = TrainConfig(
        model=SAVED, layers=(), standardize=False, data=data, output=output, loss=loss,
        label_smoothing=0.0,
    )  # fmt: skip
    classes = init_shapes(net, facts.in_shape)[2][-1]
    if classes != facts.classes:
        facts = facts._replace(classes=classes, names=())
    return build(config, facts, net=net)


def ending(net: Layer) -> str | None:
    """The setting `output` of a network: what it ends in."""
    name = split_last(net).last.name
    return name if name in ("softmax", "log_softmax", "sigmoid") else None
