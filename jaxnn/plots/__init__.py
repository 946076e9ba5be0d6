"""The pictures of a training run: curves, confusion, mistakes, attacks.

Each function takes plain NumPy arrays and returns matplotlib's figure. `path` is a file
for it, .png, .svg or .pdf, which is whole or not there; None: the figure is returned
only. `dpi` are its dots an inch, say 300 for print; None: what `savefig.dpi` of
matplotlib's `rcParams` says, else 110.

`Figure` is used without pyplot: no global state, so any thread may draw, and no window
system is asked for. Colors are those of Okabe and Ito (2008), which color-blind
readers can tell apart; where color says something, so does a mark or a word.

N images, C classes, T epochs, S seeds, H W image.
"""

import os

# MPLBACKEND is for windows, which no picture here opens; a notebook's is inherited by
# the commands it starts, and matplotlib cannot be imported where it names one unknown.
_asked = os.environ.pop("MPLBACKEND", None)
try:
    from jaxnn.plots.images import adversarial, mistakes
    from jaxnn.plots.run import confusion, curves
finally:
    if _asked is not None:
        os.environ["MPLBACKEND"] = _asked

__all__ = ["adversarial", "confusion", "curves", "mistakes"]
