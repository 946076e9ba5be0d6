"""The bar that shows how far something is: in a terminal's line, or in a notebook."""

import warnings
from typing import Any


def bar(**options: Any) -> Any:
    """`tqdm` with these options: in a notebook its own bar, where ipywidgets is.

    It is imported here, as much of what does not show one is done without it.
    """
    with warnings.catch_warnings():  # where ipywidgets is not, text does
        warnings.simplefilter("ignore")
        from tqdm.auto import tqdm
    return tqdm(**options)
