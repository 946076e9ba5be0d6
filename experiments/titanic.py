"""Who survived the Titanic? A network that answers yes or no, and how sure it is.

Question: from class, sex, age and family aboard, who was saved? Is a small network
better than logistic regression, and does 70% from it mean seventy of a hundred?

    python -m experiments.titanic           about 20 seconds

Expected: accuracy 0.81 and AUC 0.855, means over 20 seeds x 5 folds (logistic
regression: 0.78 and 0.84). With scikit-learn installed its MLPClassifier is measured
on the first folds too.

Logistic regression is the same network without its hidden layer: one weighted sum of
the features, made a probability. The network has 16 hidden units between.

How the answer becomes a number. The network ends in two numbers, the logits z0 (died)
and z1 (survived). Softmax makes probabilities of them, p1 = e^z1 / (e^z0 + e^z1), and
the loss is -log of the probability of what happened. There are two ways to write it:

    softmax_cross_entropy(z, y)      -log softmax(z)[y],  dz = softmax(z) - onehot(y)
    a log_softmax layer, then nll    the same in two pieces, each with its derivative

They are the same function, so they give the same numbers (shown below). What one must
not do is log(softmax(z)): for z1 - z0 = -200 softmax says 0 and the log -infinity.

Five folds: the passengers are dealt into five sets; each is the test of a network that
learned from the other four. So every passenger is tested, once a seed. What fills a
missing age (263 of 1,309: the median, and a column that says "was missing") and what
standardizes it is learned from the four, never from the test.

Accuracy counts right answers. AUC asks about the order: take one who survived and one
who died; how often did the survivor get the higher probability?
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.common import conclude, main, spread, train_many
from experiments.pictures import calibration, calibration_bins, strips
from experiments.tabular import fit_encoder, stratified_folds
from jaxnn import mlp
from jaxnn.data.table import Table, find_table, read_csv
from jaxnn.losses import nll, softmax_cross_entropy
from jaxnn.plots.panels import COLORS, INK, lines, name_axes, panels, show_legend
from jaxnn.regularize import l2

FOLDS = 5
NUMBERS = ["age", "sibsp", "parch"]
# sibsp: siblings and spouse aboard, parch: parents and children aboard
GROUPS = [(c, s) for s in ("female", "male") for c in ("1st", "2nd", "3rd")]


@dataclass(frozen=True)
class Args:
    """Settings; chosen on the folds of seeds 100 to 105, not on those reported."""

    seeds: int = 20  # Ways to deal the passengers into folds; each has five networks
    hidden: int = 16  # Units of the hidden layer
    steps: int = 300  # Steps, each on all training rows
    lr: float = 0.01  # Learning rate of Adam at the start; it falls to 0 along a cosine
    l2: float = 0.003  # Weight decay of the network, strength/2 * sum w^2
    rivals: int = 2  # Seeds of scikit-learn's network (a second a fold)


class Folds:
    """Every network's rows: M = seeds x 5 of them, each with its own encoder."""

    def __init__(self, people: Table, survived: np.ndarray, seeds: int):
        self.people, self.survived = people, survived
        self.tests, self.encoders, xs, ys = [], [], [], []
        everyone = np.arange(len(people))
        size = len(people) - -(-len(people) // FOLDS)
        for seed in range(seeds):
            for test in stratified_folds(survived, FOLDS, seed):
                # all networks learn from equally many, so that they fit one array;
                # at most one passenger is left out
                train = np.setdiff1d(everyone, test)
                train = np.random.default_rng(seed).permutation(train)[:size]
                encode = fit_encoder(
                    people.take(train), numbers=NUMBERS, flag_missing=True,
                    categories=["pclass", "sex"],
                )  # fmt: skip
                self.tests.append(test)
                self.encoders.append(encode)
                xs.append(encode(people.take(train)))
                ys.append(survived[train])
        self.x, self.y = np.stack(xs), np.stack(ys)  # (M, N, F), (M, N)

    def scores(self, probabilities: list[np.ndarray]) -> dict:
        """Accuracy and AUC on the test rows: mean over folds, spread over seeds."""
        pairs = list(zip(probabilities, self.tests, strict=False))
        right = [((p > 0.5) == self.survived[t]).mean() for p, t in pairs]
        order = [auc(self.survived[t], p) for p, t in pairs]
        return {
            "accuracy": spread(np.reshape(right, (-1, FOLDS)).mean(1)),
            "auc": spread(np.reshape(order, (-1, FOLDS)).mean(1)),
        }


def auc(happened: np.ndarray, score: np.ndarray) -> float:
    """Share of pairs (one yes, one no) in which the yes has the higher score.

    A tie counts half: with ranks r of the scores, ties sharing their mean rank, it is
    (sum of r over the yes - n1 (n1 + 1) / 2) / (n1 n0).
    """
    _, place, count = np.unique(score, return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2)[place]
    n1 = int(happened.sum())
    n0 = len(happened) - n1
    return float((rank[happened == 1].sum() - n1 * (n1 + 1) / 2) / (n1 * n0))


def train(folds: Folds, args: Args, hidden: list[int], penalty: float, **options):
    """All M networks at once; returns (x -> probability of survival, losses)."""
    net = mlp([folds.x.shape[-1], *hidden, 2], activation="relu", **options)
    loss = nll if options else softmax_cross_entropy
    adam = optax.adam(optax.cosine_decay_schedule(args.lr, args.steps))
    trained = train_many(
        net, loss, adam, folds.x, folds.y, seeds=range(len(folds.x)),
        steps=args.steps, penalty=l2(penalty), own_data=True,
    )  # fmt: skip

    @jax.jit
    @partial(jax.vmap, in_axes=(0, 0, 0))
    def probability(params, state, x):
        out = net.forward(params, state, x, train=False)[0]
        return jax.nn.softmax(out)[:, 1]  # of log-probabilities too: e^log p is p

    def ask(people: list[Table]) -> np.ndarray:
        """Network m's probabilities for the rows of people[m]; (M, rows)."""
        x = [e(p) for e, p in zip(folds.encoders, people, strict=True)]
        return np.asarray(probability(trained.params, trained.state, jnp.stack(x)))

    return ask, trained.losses


def two_ways(folds: Folds, args: Args) -> dict:
    """softmax + cross-entropy in one, and log_softmax then nll: the same numbers."""
    few = Folds(folds.people, folds.survived, 1)
    one, losses = train(few, args, [args.hidden], args.l2)
    two, losses_two = train(few, args, [args.hidden], args.l2, output="log_softmax")
    people = [few.people] * FOLDS
    found = {
        "loss_one": float(losses[:, -1].mean()),
        "loss_two": float(losses_two[:, -1].mean()),
        "largest_loss_difference": float(abs(losses - losses_two).max()),
        "largest_probability_difference": float(abs(one(people) - two(people)).max()),
    }
    print("\nthe same loss in one piece and in two, after training five networks")
    print(f"  softmax_cross_entropy  {found['loss_one']:.7f}")
    print(f"  log_softmax, then nll  {found['loss_two']:.7f}")
    print(f"  largest difference in {args.steps} steps "
          f"{found['largest_loss_difference']:.0e}, of a probability "
          f"{found['largest_probability_difference']:.0e}")  # fmt: skip
    logits = jnp.array([[200.0, 0.0]])
    right = float(softmax_cross_entropy(logits, jnp.array([1]))[0])
    naive = float(-jnp.log(jax.nn.softmax(logits))[0, 1])
    print(f"  logits (200, 0), survived: {right:g}; by -log(softmax): {naive:g}")
    return found | {"loss_of_200": right, "naive_loss_of_200": naive}


def sklearn_mlp(folds: Folds, args: Args) -> list[np.ndarray] | None:
    """scikit-learn's network of the same size on the first folds, if installed."""
    try:
        from sklearn.neural_network import MLPClassifier
    except ImportError:
        print("scikit-learn is not installed: going on without MLPClassifier")
        return None
    found = []
    for m in range(min(args.rivals, args.seeds) * FOLDS):
        model = MLPClassifier((args.hidden,), max_iter=1000, random_state=m)
        model.fit(folds.x[m], folds.y[m])
        x = folds.encoders[m](folds.people.take(folds.tests[m]))
        found.append(model.predict_proba(x)[:, 1])
    return found


def tested(folds: Folds, ask) -> list[np.ndarray]:
    """Each network's probabilities for the passengers it is tested on."""
    everyone = ask([folds.people] * len(folds.tests))
    return [p[t] for p, t in zip(everyone, folds.tests, strict=True)]


def run(args: Args) -> None:
    people = read_csv(find_table("titanic.csv"))
    survived = (people["survived"] == "survived").astype(np.int32)
    print(f"{len(people)} passengers, {survived.mean():.1%} survived; "
          f"missing: {people.missing()}")  # fmt: skip
    folds = Folds(people, survived, args.seeds)
    same = two_ways(folds, args)

    ask, _ = train(folds, args, [args.hidden], args.l2)
    straight, _ = train(folds, args, [], 0.0)  # no hidden layer: logistic regression
    ways = {
        "logistic regression": tested(folds, straight),
        "network (jaxnn)": tested(folds, ask),
        "MLPClassifier (scikit-learn)": sklearn_mlp(folds, args),
    }
    values = {n: folds.scores(p) for n, p in ways.items() if p is not None}
    print(f"\n{'':<30}{'accuracy':>15}{'AUC':>17}")
    for name, found in values.items():
        a, b = found["accuracy"], found["auc"]
        print(f"{name:<30}{a['mean']:>8.4f} ± {a['std']:.4f}{b['mean']:>9.4f} ± "
              f"{b['std']:.4f}   {FOLDS} folds x {a['n']} seeds")  # fmt: skip

    said = whole(folds, ways["network (jaxnn)"])
    gaps = [calibration_bins(p, survived)[3] for p in said]
    pictures = {"titanic.png": draw(folds, ask, said, values)}
    facts = {
        "calibration_error": spread(gaps), "two_ways": same, "folds": FOLDS,
        "passengers": len(people), "missing": people.missing(),
    }  # fmt: skip
    conclude(
        "titanic", args, {"ways": values} | facts, pictures,
        """\
  "Women and children first", by class. Top left: the chance the networks give someone
  who travels alone, by age (band: spread over 100 networks): sex matters most, then
  class, then being a child. Age counts up to about 20 and little after: a hidden layer
  can bend like that, logistic regression has one slope for all ages and both sexes.
  Top right: what happened (bars) and what the networks had said of passengers they did
  not know (diamonds). Bottom left: the dots lie near the diagonal, so 70% means seventy
  of a hundred. Bottom right: what the bend is worth.""",
        more_packages=("scikit-learn",),
    )  # fmt: skip


def whole(folds: Folds, probabilities: list[np.ndarray]) -> np.ndarray:
    """Test probabilities put back in the order of the passengers, a row a seed."""
    whole = np.empty((len(folds.tests) // FOLDS, len(folds.people)))
    for m, (p, rows) in enumerate(zip(probabilities, folds.tests, strict=True)):
        whole[m // FOLDS, rows] = p
    return whole


def draw(folds: Folds, ask, said: np.ndarray, values: dict) -> Any:
    people, survived = folds.people, folds.survived
    title = f"Who survived the Titanic? {len(people):,} passengers, each tested unseen"
    figure, axes = panels(2, 2, width=4.7, height=3.3, title=title)
    ages = np.arange(0.0, 71.0, 2.0)
    chances = {f"{s}, {c}": _by_age(folds, ask, ages, c, s) for c, s in GROUPS}
    lines(axes[0], ages, chances, "age (years), travelling alone",
          "chance of survival", "what the networks learnt")  # fmt: skip
    axes[0].set_ylim(0, 1)

    masks = [(people["pclass"] == c) & (people["sex"] == s) for c, s in GROUPS]
    places, ax, colors = np.arange(len(GROUPS)), axes[1], COLORS[: len(GROUPS)]
    shares = [survived[m].mean() for m in masks]
    ax.bar(places, shares, 0.62, color=colors, alpha=0.6, label="share that survived")
    means = [said[:, m].mean() for m in masks]
    ax.plot(places, means, "D", color=INK, ms=6, label="mean of the networks, unseen")
    names = [f"{s}\n{c} ({m.sum()})" for (c, s), m in zip(GROUPS, masks, strict=True)]
    ax.set_xticks(places, names, fontsize=7.5)
    ax.set_ylim(0, 1.15)
    name_axes(ax, "", "share", "what happened (number of passengers)")
    show_legend(ax, loc="upper right")

    calibration(axes[2], said[0], survived, "survives")
    scores = {n: v["auc"]["values"] for n, v in values.items()}
    strips(axes[3], scores, "AUC (0.5: guessing, 1: perfect), mean of five folds",
           "a dot a seed", form=".3f", marked=["network (jaxnn)"])  # fmt: skip
    return figure


def _by_age(folds: Folds, ask, ages: np.ndarray, pclass: str, sex: str) -> np.ndarray:
    """Chance by age (M, ages) of a passenger alone aboard."""
    size = len(ages)
    columns = {
        "age": ages, "sibsp": np.zeros(size), "parch": np.zeros(size),
        "pclass": np.array([pclass] * size), "sex": np.array([sex] * size),
    }  # fmt: skip
    return ask([Table("imagined passengers", columns)] * len(folds.tests))


if __name__ == "__main__":
    main(Args, run)
