"""Names at the top level are what they say, whatever has been imported before."""

import importlib
import pkgutil
import types

import jaxnn


def test_no_package_takes_the_place_of_a_function():
    for module in pkgutil.iter_modules(jaxnn.__path__):
        importlib.import_module(f"jaxnn.{module.name}")
    hidden = [
        name for name in jaxnn._HOME
        if isinstance(getattr(jaxnn, name), types.ModuleType)
    ]  # fmt: skip
    assert not hidden
