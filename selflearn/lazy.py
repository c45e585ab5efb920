"""Names of a package that are looked up when they are first used (PEP 562).

A room's public names come from many modules, and some of those bring heavy libraries in. A command that needs one of
the names, at night and in a hurry, must not wait for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def attributes_of(package: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """A ``__getattr__`` for ``package``: ``names`` says for each of its modules what comes from there, in one string.

    No public name may be that of a module of the package: importing that module would hide it.
    """
    modules = {name: module for module, together in names.items() for name in together.split()}

    def attribute(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{modules[name]}"), name)

    return attribute
