"""The stages of one run: train, test, compare, attack, draw."""

import math
import sys
import zlib
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.app.config import TrainConfig
from jaxnn.app.folder import say_to_user
from jaxnn.app.options import step_options
from jaxnn.app.resuming import write_rows
from jaxnn.app.settings import must_stay
from jaxnn.attacks import Classifier
from jaxnn.check import compare_gradients
from jaxnn.data import stratified_sample
from jaxnn.defenses import find_collapse
from jaxnn.defenses.interval import margins
from jaxnn.distributed.data import same_everywhere
from jaxnn.environment import memory
from jaxnn.errors import JaxnnError
from jaxnn.files import append_line
from jaxnn.losses import loss_by_name
from jaxnn.optimizers import optimizer_by_name
from jaxnn.robustness.threat import Threat
from jaxnn.robustness.worst import worst_case
from jaxnn.train import (
    Snapshots,
    TrainingError,
    describe,
    evaluate,
    fit,
    make_step,
    standard_training,
)

EPSILON, STEPS = 0.1, 40  # the attacks of the report: Linf, in pixel units of [0, 1]


def attack_keys(epsilon: float) -> tuple[str, str, str]:
    """What result.json calls the three attacks of `worst_case`."""
    at = f"_{epsilon:g}"
    return f"fgsm{at}", f"pgd{STEPS}{at}", f"margin_pgd{STEPS}{at}"


def unit_images(x: np.ndarray) -> np.ndarray:
    """Images as float32 in [0, 1], the same in every command."""
    scale = 255 if x.dtype == np.uint8 else 1
    return x.astype(np.float32) / np.float32(scale)


class Job:
    """One run's data, network and settings, and the stages that use them."""

    def __init__(self, config, data, facts, net):
        self.config, self.data, self.net = config, data, net
        self.loss = loss_by_name(config.loss, config.label_smoothing or 0.0)
        steps = max(len(data.train.x) // config.batch, 1) * config.epochs
        steps *= config.replays or 1
        self.steps = steps
        self.optimizer = optimizer_by_name(
            config.optimizer, config.lr, config.schedule, steps, config.weight_decay
        )
        self.options = step_options(config, data.classes, steps)
        self._check(facts)
        self.many = config.seeds > 1
        first = config.seed
        self.seeds = list(range(first, first + config.seeds)) if self.many else first

    def _check(self, facts):
        """Raise for options that cannot be met, before any file is written."""
        make_step(self.net, self.loss, self.optimizer, **self.options)
        if self.config.adversarial == "ibp":
            margins(self.net)
        self._check_sizes(facts)
        if self.options["augment"] is not None:
            images = jax.ShapeDtypeStruct((1, *facts.in_shape), jnp.float32)
            jax.eval_shape(self.options["augment"], jax.random.key(0), images)

    def _check_sizes(self, facts):
        """The outputs must be the classes, and the networks fit in memory."""
        shapes = []

        def init(key):
            params, state, out = self.net.init(key, facts.in_shape)
            shapes.append(out)
            return params, state

        params, _ = jax.eval_shape(init, jax.random.key(0))
        if shapes[0] != (facts.classes,):
            raise JaxnnError(
                f"--layers: the network puts out {shapes[0]} for an image, expected "
                f"({facts.classes},), a number for each class"
            )
        size = sum(
            math.prod(a.shape) * a.dtype.itemsize for a in jax.tree.leaves(params)
        )
        needed, there = 3 * size * self.config.seeds, memory()
        if there and needed > there:
            raise JaxnnError(
                "--layers and --seeds: parameters, gradients and the optimizer's state "
                f"need at least {needed / 1e9:,.0f} GB, but there are "
                f"{there / 1e9:,.0f}; expected fewer or narrower networks"
            )

    def train(self, folder, mesh=None, resume=False):
        """(history, None), or (history so far, the error) if training diverged.

        With several processes all but the first write and say nothing.
        """
        config, data = self.config, self.data
        first = mesh is None or jax.process_index() == 0
        terminal = sys.stderr.isatty() and not config.quiet and first
        snapshots = self._snapshots(folder, mesh, resume)

        balanced = "balanced" if config.class_weights == "balanced" else None

        def on_epoch(row):
            if not first:
                return
            append_line(folder / "metrics.jsonl", row)
            if not terminal and not config.quiet:
                print(f"epoch {row['epoch']:>3}/{config.epochs}  {describe(row)}")

        try:
            return fit(
                self.net,
                data.train,
                validation=data.validation if len(data.validation.x) else None,
                loss=self.loss,
                optimizer=self.optimizer,
                epochs=config.epochs,
                batch=config.batch,
                seeds=self.seeds,
                order=config.order,
                **self.options,
                class_weights=balanced,
                patience=config.patience,
                keep=config.keep,
                guard=config.guard,
                dtype=jnp.dtype(config.dtype),
                progress=terminal,
                on_epoch=on_epoch,
                steps_per_call=config.snapshot_steps,
                mesh=mesh,
                snapshots=snapshots,
            ), None
        except TrainingError as error:
            return error.history, error

    def _snapshots(self, folder, mesh, resume):
        """Where the run is kept, and brought back from, or None if it is not."""
        if mesh is not None:
            self._check_same()
        if folder is None or not (self.config.snapshots or resume):
            return None
        alone = mesh is None or jax.process_index() == 0
        config, rows = self.config, folder / "metrics.jsonl"
        snapshots = Snapshots(
            folder / "snapshots", max(config.snapshots, 1), config.snapshot_steps,
            resume, must_stay(config), partial(write_rows, rows) if alone else None,
            say=say_to_user if alone else lambda text: None,
        )  # fmt: skip
        if resume and alone and snapshots.newest() is None:
            say_to_user(
                f"no snapshot in {snapshots.folder}: training starts from the beginning"
            )
        return snapshots

    def _check_same(self):
        """All processes must be started with the same settings and data."""
        settings = repr(replace(self.config, out=None, quiet=False))
        crc = zlib.crc32(settings.encode())
        for a in (self.data.train.x, self.data.train.y, self.data.validation.x):
            crc = zlib.crc32(np.ascontiguousarray(a).data, crc)
        if not same_everywhere(crc & 0x7FFFFFFF):
            raise JaxnnError(
                "several processes: they were started with different settings or data; "
                "give all the same flags but for --process, --local-device-ids, --out "
                "and --quiet"
            )

    def test(self, history, result):
        """Accuracy and probabilities on all test images, once."""
        found = evaluate(
            self.net, history.params, history.state, *self.data.test,
            loss=self.loss, seeds=self.many,
        )  # fmt: skip
        self.all_outputs = found.outputs if self.many else found.outputs[None]
        self.outputs = self.all_outputs[0]
        accuracy = np.atleast_1d(found.accuracy)
        result["test_accuracy"] = accuracy.tolist()
        result["mean"] = float(accuracy.mean())
        result["std"] = float(accuracy.std(ddof=1)) if len(accuracy) > 1 else 0.0
        result["n"], result["test_images"] = len(accuracy), len(self.data.test.y)
        result["test_loss"] = np.atleast_1d(found.loss).tolist()

    def problems(self, history):
        """What makes the run's result worthless, in words; [] if nothing does."""
        found, self.finite = [], True
        tried = np.broadcast_to(history.last.step, (self.config.seeds,))
        bad = np.broadcast_to(history.last.skipped, (self.config.seeds,))
        for i in range(self.config.seeds):
            of_seed = f"seed {self.config.seed + i}: " if self.many else ""
            end = jax.tree.leaves(self.member(history.last.params, i))
            lost = sum(int((~np.isfinite(np.asarray(a, float))).sum()) for a in end)
            outputs = self.all_outputs[i]  # -inf is the log of no chance
            images = int((np.isnan(outputs) | np.isposinf(outputs)).any(-1).sum())
            if lost or images:
                self.finite = False
                found.append(
                    f"{of_seed}not finite: {lost:,} of {sum(a.size for a in end):,} "
                    f"parameters at the end, and the outputs of those kept for "
                    f"{images:,} of {len(outputs):,} test images"
                )
            elif self.config.guard != "off" and tried[i] and bad[i] == tried[i]:
                found.append(
                    f"{of_seed}not trained: each of the {tried[i]:,} steps was bad and "
                    "left out; these are the initial parameters"
                )
        return found

    def member(self, tree, i):
        """The i-th seed's part of a tree."""
        return jax.tree.map(lambda a: a[i], tree) if self.many else tree

    def compare(self, history, result):
        """Hand-written against automatic gradients of the trained network."""
        report = compare_gradients(
            self.net,
            self.loss,
            self.member(history.params, 0),
            self.member(history.state, 0),
            self.data.train.x[: self.config.batch],
            self.data.train.y[: self.config.batch],
            key=jax.random.key(self.config.seed),
            penalty=self.options["penalty"],
            audit=False,  # layer by layer if they differ; `jaxnn compare` always
        )
        result["gradients"] = (
            {
                f"{dtype}_max_relative": report.max_relative(dtype)
                for dtype in ("float32", "float64")
            }
            | report.to_json()
            | {"line": report.line()}
        )

    @property
    def threat(self) -> Threat:
        """What the report attacks with: the budget the run was trained for, or 0.1."""
        return Threat("linf", self.config.epsilon or EPSILON).checked()

    def attack(self, history, result):
        """The worst case on test images, every seed on the same ones."""
        config, test = self.config, self.data.test
        n = min(config.attack_images, len(test.y))
        rows = np.arange(len(test.y))
        if 0 <= n < len(test.y):
            rows = stratified_sample(test.y, n, config.seed)
        x, y = unit_images(test.x[rows]), test.y[rows]
        self.attacked = rows, x, y
        epsilon = self.threat.epsilon
        keys, right = attack_keys(epsilon), {}
        for i in range(config.seeds):
            model = Classifier(
                self.net, self.member(history.params, i), self.member(history.state, i)
            )
            key = jax.random.key(config.seed)
            found = worst_case(model, x, y, threat=self.threat, key=key)
            for name, stands in zip(keys, found.right.values(), strict=True):
                right.setdefault(name, []).append(float(stands.mean()))
            right.setdefault("worst", []).append(float(found.stands.mean()))
            right.setdefault("not_attacked", []).append(int(found.not_attacked.sum()))
            if i == 0:
                self.x_adv = found.x_adv["PGD-40"]
                self.outputs_adv = model.outputs(self.x_adv)
        gap = float(np.mean(right[keys[0]]) - np.mean(right["worst"]))
        result["adversarial"] = {
            name: values if self.many else values[0] for name, values in right.items()
        } | {
            "images": len(rows),
            "sample": "all" if len(rows) == len(test.y) else "seeded stratified sample",
            "norm": "linf", "epsilon": epsilon, "box": [0, 1],
            "steps": STEPS, "step_size": 2.5 * epsilon / STEPS,
            "losses": ["cross-entropy", "margin"], "seed": config.seed,
            "note": _gap_note(gap),
        }  # fmt: skip

    def collapse(self, result):
        """Whether training collapsed, seed by seed; a list of words, [] if none did."""
        one, many, _ = attack_keys(self.threat.epsilon)
        attacked = result["adversarial"] or {one: None, many: None}
        pairs = (attacked[one], attacked[many])
        defense = self.options["defense"] or standard_training
        said = []
        for i, outputs in enumerate(self.all_outputs):
            one, many = (a[i] if isinstance(a, list) else a for a in pairs)
            found = find_collapse(
                outputs, self.data.test.y,
                defense=defense, one_step=one, many_steps=many,
            )  # fmt: skip
            if found is not None:
                seed = f"seed {self.config.seed + i}: " if self.many else ""
                said.append(f"{seed}{found.kind}: {found.words}")
        result["collapse"] = said

    def pictures(self, history):
        """Name -> function that draws to a path; the first seed's, of several."""
        test, chance = self.data.test, probabilities(self.outputs, self.config)
        found = {
            "curves.png": lambda path: _plots().curves(history.rows, path),
            "confusion.png": lambda path: _plots().confusion(
                test.y, chance.argmax(-1), self.data.classes, path
            ),
            "mistakes.png": lambda path: _plots().mistakes(
                test.x, test.y, chance, path
            ),
        }
        if hasattr(self, "x_adv"):
            rows, x, y = self.attacked
            attacked = probabilities(self.outputs_adv, self.config)
            found["adversarial.png"] = lambda path: _plots().adversarial(
                x, self.x_adv, y, chance[rows], attacked, self.threat.epsilon, path,
                count=10, attack=f"PGD, {STEPS} steps",
            )  # fmt: skip
        return found


def _plots():
    from jaxnn import plots  # matplotlib is slow to import: not before it is needed

    return plots


def probabilities(outputs: np.ndarray, config: TrainConfig) -> np.ndarray:
    """Outputs (..., N) of a network as probabilities, by the loss it was trained with.

    Logits go through softmax or sigmoid. The scores of the margin losses do too, and
    the outputs of the others are only scaled to sum to 1: no probabilities, but in
    their order.
    """
    if config.loss in ("sigmoid_cross_entropy", "sigmoid_focal"):
        outputs = 1 / (1 + np.exp(-outputs))
    elif config.loss not in ("mse", "quadratic", "mae", "huber"):
        outputs = np.exp(outputs - outputs.max(-1, keepdims=True))
    positive = np.clip(outputs, 1e-12, None)
    return positive / positive.sum(-1, keepdims=True)


def _gap_note(gap: float) -> str | None:
    """A note where one step fools much less than many; 15 points is the custom."""
    if gap <= 0.15:
        return None
    return (
        f"FGSM overstates accuracy by {100 * gap:.0f} points: one step is a weak "
        "attack on this network, and only the stronger one counts"
    )
