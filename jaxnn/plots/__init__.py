"""The pictures of a training run, as PNG files: curves, confusion, mistakes, attacks.

Each function takes plain NumPy arrays and a path, and the file is whole or not there.
`Figure` is used without pyplot: no global state, so any thread may draw, and no window
system is asked for. Colours are those of Okabe and Ito (2008), which colour-blind
readers can tell apart; where colour says something, so does a mark or a word.

N images, C classes, E epochs, S seeds, H W image.
"""

from jaxnn.plots import backend  # first: before matplotlib is imported
from jaxnn.plots.confusion import confusion
from jaxnn.plots.curves import curves
from jaxnn.plots.galleries import adversarial, mistakes

__all__ = ["adversarial", "backend", "confusion", "curves", "mistakes"]
