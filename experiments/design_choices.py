"""Why is it done this way? Five choices in every neural network, with numbers.

Questions: samples as rows or as columns, one by one or in batches? Where should weights
start? What should the forward pass keep for the way back? Which optimizer? And can a
network be made of networks?

    python -m experiments.design_choices               about 60 seconds
    python -m experiments.design_choices --only nested       one of the five

Expected: rows or columns hardly matter to the products, but picking a batch is about
eight times faster by rows; a batch at once is tens of times faster than a Python loop;
of six starts three never learn a deep relu network; keeping the output of tanh takes
half the memory of keeping its input in NumPy; each optimizer gets there at its best
rate, all but Adagrad sooner than plain SGD; four small networks and a judge learn at
least as well as one network of the same size.

Each choice is a file of its own in `experiments/choices/`, to be read from the top:
layout, initialisers, keeping, optimisers, nested.
"""

import time
from dataclasses import dataclass

from experiments.choices import initializers, keeping, layout, nested, optimizers
from experiments.common import conclude, main
from jaxnn.errors import lookup

CHOICES = {
    "layout": layout, "initialisers": initializers, "keeping": keeping,
    "optimisers": optimizers, "nested": nested,
}  # fmt: skip


@dataclass(frozen=True)
class Args:
    """Settings."""

    images: int = 5000  # Training images
    test_images: int = 10_000  # Test images, of 10,000
    batch: int = 50  # Images a step of training
    epochs: int = 4  # Times through the images
    seeds: int = 5  # Starts of every network, trained side by side
    width: int = 256  # Units of each of the 16 layers in `keeping`
    rows: int = 512  # Samples in its batch
    valley_steps: int = 300  # Steps in the valley
    frames: int = 45  # Pictures of the film
    only: tuple[str, ...] = ()  # Names of choices, see above; none given: all


def run(args: Args) -> None:
    values, pictures = {}, {}
    for name in args.only or CHOICES:
        print(f"{name}: {lookup('choice', name, CHOICES).__doc__.splitlines()[0]}")
        begun = time.perf_counter()
        values[name], drawn = CHOICES[name].measure(args)
        pictures |= drawn
        values[name]["seconds"] = time.perf_counter() - begun
        print(f"  {values[name]['seconds']:.1f} s\n")
    name = "design_choices"
    conclude(
        "-".join([name, *args.only]), args, values, pictures,
        """\
  layout: orange is columns on the left, loops on the right. Bars of one kind are the
  same calculation, to the last digits of float32.
  initialisers: left, how large the numbers are that reach each layer before anything
  is learnt. What fades or grows by a factor a layer learns late or never (right); flat
  lines are fine. Three do not learn: zeros and too small lie on one another at
  ln 10 = 2.3, the loss of saying "each digit, 10%"; too large is above the picture.
  keeping: blue is NumPy, orange XLA. In NumPy, keeping the input takes twice the
  memory; XLA sees through it. Recomputing trades time for memory in both.
  optimisers: left all come down together; right, relative to SGD, who is early.
  valley.gif: SGD follows the bottom slowly, as a rate that suits the walls is too small
  for the bottom; momentum rolls along it; Adam has its own step in each direction.
  nested: left, it learns like one network. Right, silence a reader (orange) and the
  judge errs more, by how much that quarter of the image matters.""",
        module=name,
    )  # fmt: skip


if __name__ == "__main__":
    main(Args, run)
