"""The bar of a notebook where it can be shown, else text; and never a warning."""

import subprocess
import sys

import pytest

NOTEBOOK = """
import sys, types

class Widget:
    def __init__(self, *args, **kwargs): self.layout = types.SimpleNamespace()

sys.modules["ipykernel.zmqshell"] = types.ModuleType("ipykernel.zmqshell")
shell = types.SimpleNamespace(get_ipython=lambda: None)
sys.modules["IPython"] = shell
sys.modules["IPython.display"] = types.SimpleNamespace(display=print)
sys.modules["ipywidgets"] = WIDGETS
from jaxnn.progress import bar

with bar(total=2, disable=True) as shown:
    shown.update()
    shown.set_postfix_str("loss 1")
print(any(kind.__name__ == "tqdm_notebook" for kind in type(shown).__mro__))
"""
FAKE = "types.SimpleNamespace(HTML=Widget, FloatProgress=Widget, HBox=Widget)"


@pytest.mark.parametrize(("widgets", "own"), [(FAKE, "True"), ("None", "False")])
def test_a_notebook_has_its_own_bar_where_ipywidgets_is(widgets, own):
    code = NOTEBOOK.replace("WIDGETS", widgets)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == (f"{own}\n", "")
