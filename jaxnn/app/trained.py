"""What has become of a run: each part of its result is measured here, and told."""

from typing import Any

import jax
import numpy as np

from jaxnn.app.build import Experiment
from jaxnn.app.config import EPSILON, TrainConfig
from jaxnn.app.folder import drawn, sample_rows
from jaxnn.attacks import Classifier
from jaxnn.check.compare import Comparison
from jaxnn.costs import count_parameters
from jaxnn.data import unit_images
from jaxnn.defenses import find_collapse
from jaxnn.environment import surroundings
from jaxnn.files import plain
from jaxnn.robustness.threat import Threat
from jaxnn.robustness.worst import worst_case
from jaxnn.text import spread
from jaxnn.train import evaluate
from jaxnn.train.step import standard_training

STEPS = 40  # of PGD in the report


class Trained:
    """A trained experiment; each method measures a part of the result."""

    def __init__(self, e: Experiment, history: Any):
        self.e, self.history, self.multi_seed = e, history, e.config.seeds > 1

    def member(self, tree: Any, i: int) -> Any:
        """The i-th seed's part of a tree."""
        return jax.tree.map(lambda a: a[i], tree) if self.multi_seed else tree

    def describe(self, table: str) -> dict[str, Any]:
        """What was trained, where, and what the guard did."""
        history, config = self.history, self.e.config
        bad = np.asarray(history.last.skipped)
        return {
            "epochs": len(history.epochs),
            "best_epoch": history.best_epoch,
            "stopped": history.stopped,
            "parameters": count_parameters(self.member(history.params, 0)),
            "guard": {
                "policy": config.guard,
                "findings": [finding.to_json() for finding in history.findings],
                "report": [line for f in history.findings for line in f.lines()],
            },
            "steps_skipped": (bad * (config.guard != "off")).tolist(),
            "steps_bad": bad.tolist(),
            "gradients": None,
            "adversarial": None,
            "config": plain(vars(config)),
            "network": self.e.facts._asdict(),
            "summary": table,
        } | surroundings()

    def test(self) -> dict[str, Any]:
        """Measure accuracy on all test images, once."""
        found = evaluate(
            self.e.net, self.history.params, self.history.state, *self.e.data.test,
            loss=self.e.loss, seeds=self.multi_seed,
        )  # fmt: skip
        self.outputs = found.outputs if self.multi_seed else found.outputs[None]
        accuracy = np.atleast_1d(found.accuracy)
        return {
            "test_accuracy": accuracy.tolist(),
            "mean": float(accuracy.mean()),
            "std": float(accuracy.std(ddof=1)) if len(accuracy) > 1 else 0.0,
            "n": len(accuracy),
            "test_images": len(self.e.data.test.y),
            "test_loss": np.atleast_1d(found.loss).tolist(),
        }

    def problems(self) -> dict[str, Any]:
        """Say what makes the result worthless."""
        config, last, said, finite = self.e.config, self.history.last, [], True
        tried = np.broadcast_to(last.step, (config.seeds,))
        bad = np.broadcast_to(last.skipped, (config.seeds,))
        for i, outputs in enumerate(self.outputs):
            of_seed = f"seed {config.seed + i}: " if self.multi_seed else ""
            end = jax.tree.leaves(self.member(last.params, i))
            lost = sum(int((~np.isfinite(np.asarray(a, float))).sum()) for a in end)
            # -inf is the log of no chance
            images = int((np.isnan(outputs) | np.isposinf(outputs)).any(-1).sum())
            if lost or images:
                finite = False
                said.append(
                    f"{of_seed}not finite: {lost:,} of {sum(a.size for a in end):,} "
                    f"parameters at the end, and the outputs of those kept for "
                    f"{images:,} of {len(outputs):,} test images"
                )
            elif config.guard != "off" and tried[i] and bad[i] == tried[i]:
                said.append(
                    f"{of_seed}not trained: each of the {tried[i]:,} steps was bad and "
                    "left out; these are the initial parameters"
                )
        return {"problems": said, "finite": finite}

    def comparison(self) -> Comparison:
        """Hand-written and automatic gradients of the first seed, on a first batch."""
        e, key = self.e, jax.random.key(self.e.config.seed)
        params, state = self.member((self.history.params, self.history.state), 0)
        x, y = (a[: e.config.batch] for a in e.data.train)
        return Comparison(
            e.net, e.loss, params, state, x, y, key, penalty=e.options["penalty"]
        )

    def compare(self) -> dict[str, Any]:
        """Compare them: layer by layer only if they differ, unlike `jaxnn compare`."""
        report, _ = self.comparison().report(("float32", "float64"), audit=False)
        return {
            "float32_max_relative": report.max_relative("float32"),
            "float64_max_relative": report.max_relative("float64"),
        } | report.to_json() | {"line": report.line()}  # fmt: skip

    def attack(self) -> dict[str, Any]:
        """Measure the worst case on test images, every seed on the same ones."""
        c, test = self.e.config, self.e.data.test
        rows = sample_rows(test.y, c.attack_images or -1, c.seed)
        x, y, threat = unit_images(test.x[rows]), test.y[rows], threat_of(c)
        keys, right = attack_keys(threat.epsilon), {}
        for i in range(c.seeds):
            kept = self.history.params, self.history.state
            model = Classifier(self.e.net, *self.member(kept, i))
            key = jax.random.key(c.seed)
            found = worst_case(model, x, y, threat=threat, key=key)
            for name, stands in zip(keys, found.correct.values(), strict=True):
                right.setdefault(name, []).append(float(stands.mean()))
            right.setdefault("worst", []).append(float(found.stands.mean()))
            right.setdefault("not_attacked", []).append(int(found.not_attacked.sum()))
            if i == 0:
                x_adv = found.x_adv[f"PGD-{STEPS}"]
                self.attacked = rows, x, y, x_adv, model.outputs(x_adv)
        gap = float(np.mean(right[keys[0]]) - np.mean(right["worst"]))
        flatters = (
            f"FGSM overstates accuracy by {100 * gap:.0f} points: one step is a weak "
            "attack on this network, and only the stronger one counts"
        )
        return {
            name: each if self.multi_seed else each[0] for name, each in right.items()
        } | {
            "images": len(rows),
            "sample": "all" if len(rows) == len(test.y) else "seeded stratified sample",
            "norm": "linf", "epsilon": threat.epsilon, "box": [0, 1],
            "steps": STEPS, "step_size": 2.5 * threat.epsilon / STEPS,
            "losses": ["cross-entropy", "margin"], "seed": c.seed,
            "note": flatters if gap > 0.15 else None,  # 15 points is the custom
        }  # fmt: skip

    def floor(self) -> float | None:
        """The entropy of targets that label smoothing spreads: no loss is below."""
        if not (share := self.e.config.label_smoothing):
            return None
        t = np.full(self.e.data.classes, share / self.e.data.classes)
        t[0] += 1 - share
        return float(-(t * np.log(t)).sum())

    def pictures(self) -> dict[str, Any]:
        """Name -> function that draws to a path; the first seed's, of several."""
        data, chance = self.e.data, self.e.loss.as_probabilities(self.outputs[0])
        test, names = data.test, data.names
        return {
            "curves.png": drawn(
                "jaxnn.plots:curves", self.history.epochs, floor=self.floor()
            ),
            "confusion.png": drawn(
                "jaxnn.plots:confusion", test.y, chance.argmax(-1),
                names or data.classes,
            ),
            "mistakes.png": drawn(
                "jaxnn.plots:mistakes", test.x, test.y, chance, names=names
            ),
        }  # fmt: skip

    def attack_picture(self) -> dict[str, Any]:
        """The same of the attack, if there was one."""
        if not hasattr(self, "attacked"):
            return {}
        rows, x, y, x_adv, outputs = self.attacked
        before, after = map(
            self.e.loss.as_probabilities, (self.outputs[0][rows], outputs)
        )
        picture = drawn(
            "jaxnn.plots:adversarial", x, x_adv, y, before, after,
            threat_of(self.e.config).epsilon, count=10, attack=f"PGD, {STEPS} steps",
            names=self.e.data.names,
        )  # fmt: skip
        return {"adversarial.png": picture}


def threat_of(config: TrainConfig) -> Threat:
    """What the report attacks with: the budget the run was trained for, or 0.1."""
    return Threat("linf", config.epsilon or EPSILON).checked()


def attack_keys(epsilon: float) -> tuple[str, str, str]:
    """What result.json calls the three attacks of `worst_case`."""
    at = f"_{epsilon:g}"
    return f"fgsm{at}", f"pgd{STEPS}{at}", f"margin_pgd{STEPS}{at}"


def collapses(
    e: Experiment, all_outputs: np.ndarray, adversarial: dict | None
) -> list[str]:
    """Whether training collapsed, seed by seed, in words; [] if none did."""
    c = e.config
    one, many, _ = attack_keys(threat_of(c).epsilon)
    pairs = (adversarial[one], adversarial[many]) if adversarial else (None, None)
    said = []
    for i, outputs in enumerate(all_outputs):
        weak, strong = (a[i] if isinstance(a, list) else a for a in pairs)
        found = find_collapse(
            outputs, e.data.test.y, defense=e.options["defense"] or standard_training,
            one_step=weak, many_steps=strong, names=e.facts.names,
        )  # fmt: skip
        if found is not None:
            of_seed = f"seed {c.seed + i}: " if c.seeds > 1 else ""
            said.append(f"{of_seed}{found.kind}: {found.message}")
    return said


def accuracy_lines(result) -> str:
    """The test accuracy and which parameters it is of; what spoils it comes first."""
    lines = [f"FAILED         {problem}" for problem in result["problems"]]
    config, epochs = result["config"], np.unique(result["best_epoch"]).tolist()
    which = f"of epoch {epochs[0]}" if len(epochs) == 1 else f"of epochs {epochs}"
    selected = config["validation"] and config["keep"] == "best"
    chosen = ", best on validation" if selected else ""
    stopped = "" if result["stopped"] == "finished" else f"; {result['stopped']}"
    lines.append(
        f"test accuracy  {spread(result['test_accuracy'])} of all "
        f"{result['test_images']:,} test images (parameters {which}{chosen}{stopped})"
    )
    return "\n".join(lines)


def attack_line(result) -> str:
    """Accuracy under attack, with the threat model and the images in numbers."""
    found, total = result["adversarial"], result["test_images"]
    steps, epsilon = found["steps"], found["epsilon"]
    sample = (
        f"all {total:,} test images"
        if found["sample"] == "all"
        else f"a {found['sample']} of {found['images']:,} of {total:,} test images"
    )
    fgsm, pgd, margin, worst = (
        f"{100 * np.mean(found[key]):.1f}%" for key in (*attack_keys(epsilon), "worst")
    )
    lost = np.sum(found["not_attacked"])
    lost = f"; {lost:,} NOT ATTACKED, their gradient is NaN" if lost else ""
    return (
        f"FGSM {fgsm}, PGD-{steps} {pgd}, on the margin {margin}, worst case {worst} "
        f"(every pixel within {epsilon:g} of [0, 1], {sample}){lost}"
    )
