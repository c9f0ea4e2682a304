"""A folder is a registry: every public module in it defines one class of the wanted kind."""

from __future__ import annotations

import pkgutil
from functools import cache
from importlib import import_module
from typing import TypeVar

from sparsestudy.errors import NotFoundError, listing, suggest

T = TypeVar("T")


@cache
def modules(package: str) -> list[str]:
    """Names of the public modules of a package, sorted."""
    return sorted(m.name for m in pkgutil.iter_modules(import_module(package).__path__) if not m.name.startswith("_"))


def card(package: str, name: str) -> str:
    """The docstring of the module ``name`` of a package: what it is, its formula, its source, its pitfalls."""
    return (import_module(f"{package}.{name}").__doc__ or "").strip()


def lookup(package: str, name: str, kind: type[T], noun: str) -> type[T]:
    """The class of ``kind`` that the module ``name`` of ``package`` defines.

    Args:
        package: Dotted name of the folder.
        name: Module name, which is also the public name.
        kind: Base class.
        noun: What to call it in messages.

    Raises:
        NotFoundError: There is no such module.
    """
    if name not in modules(package):
        known = modules(package)
        raise NotFoundError(f"no {noun} named {name!r}; there are: {listing(known)}{suggest(name, known)}")
    module = import_module(f"{package}.{name}")
    own = [v for v in vars(module).values() if isinstance(v, type) and v.__module__ == module.__name__]
    found = [v for v in own if issubclass(v, kind)]
    assert len(found) == 1, f"{module.__name__} must define exactly one {kind.__name__}"
    return found[0]
