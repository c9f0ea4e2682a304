"""What data sets and models share: a function that the study names by ``package.module:function``, and its arguments.

Every mistake found here is the study's, so it is raised as `SpecError` with the dotted path of the study file, or as
`NotFoundError` for a name that leads nowhere; callers may merge problems of several parts.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NoReturn

from sparsestudy.errors import NotFoundError, Problem, SpecError, listing, suggest

_SOURCE = "study"
_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def refuse(path: str, message: str, cause: BaseException | None = None) -> NoReturn:
    """Raise `SpecError` for one mistake at the dotted ``path`` of the study file."""
    raise SpecError(_SOURCE, [Problem(path, message)]) from cause


def refuse_all(problems: Collection[Problem]) -> None:
    """Raise `SpecError` if there are problems."""
    if problems:
        raise SpecError(_SOURCE, tuple(problems))


def is_count(value: object, least: int = 1) -> bool:
    """Whether ``value`` is an integer from ``least`` up; booleans are not integers here.

    Example:
        >>> is_count(3), is_count(0), is_count(True), is_count(2.0)
        (True, False, False, False)
    """
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def import_function(name: str) -> Callable[..., Any]:
    """Return what ``package.module:function`` names, looking in the current directory too.

    Raises:
        NotFoundError: The module cannot be imported, or has no such function; says which, and why.

    Example:
        >>> import_function("math:sqrt")(9)
        3.0
    """
    module_name, _, function_name = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        # Last, so that a file here shadows no library; for good, since the function may import its neighbours later.
        sys.path.append(here)
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise NotFoundError(
            f"{name!r}: module {module_name!r} cannot be imported: {type(error).__name__}: {error}; write "
            f"package.module:function, with the module installed or below {here}"
        ) from error
    function: Any = getattr(module, function_name, None)
    if not callable(function):
        own = [key for key, value in vars(module).items() if getattr(value, "__module__", "") == module_name]
        found = [key for key in own if callable(getattr(module, key)) and not key.startswith("_")]
        what = "has no function" if function is None else "has no function but a value"
        raise NotFoundError(
            f"{name!r}: module {module_name!r} {what} {function_name!r}; it has {listing(found)}"
            f"{suggest(function_name, found)}"
        )
    return function  # type: ignore[no-any-return]


def accepted(function: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], bool]:
    """Return the parameters of ``function`` that can be given by name, and whether it takes any other name too."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # some functions written in C do not tell
        return {}, True
    named = {name: parameter for name, parameter in parameters.items() if parameter.kind in _BY_NAME}
    return named, any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())


def argument_problems(
    function: Callable[..., Any], arguments: Mapping[str, Any], name: str, path: str, given: Collection[str] = ()
) -> list[Problem]:
    """Compare the names of ``arguments`` with the signature of ``function``.

    Args:
        function: What is to be called.
        arguments: Keyword arguments from the study file.
        name: What the user calls the function.
        path: Dotted path of the arguments in the study file, such as ``model.arguments``.
        given: Parameters that sparsestudy fills in itself.

    Returns:
        One problem for each argument that does not exist, and for each required one that is missing.

    Example:
        >>> [str(p) for p in argument_problems(lambda width=1: width, {"widht": 2}, "mlp", "model.arguments")]
        ["model.arguments.widht: mlp has no argument 'widht'; allowed: width; did you mean 'width'?"]
    """
    parameters, takes_any = accepted(function)
    allowed = {key: parameter for key, parameter in parameters.items() if key not in given}
    problems = [unknown_argument(key, name, path, allowed) for key in arguments if key not in allowed and not takes_any]
    required = [key for key, parameter in allowed.items() if parameter.default is inspect.Parameter.empty]
    problems += [
        Problem(f"{path}.{key}", f"{name} requires it, and it is not given") for key in required if key not in arguments
    ]
    return problems


def unknown_argument(key: str, name: str, path: str, allowed: Collection[str]) -> Problem:
    """Describe an argument that ``name`` does not have."""
    return Problem(
        f"{path}.{key}", f"{name} has no argument {key!r}; allowed: {listing(allowed)}{suggest(key, allowed)}"
    )
