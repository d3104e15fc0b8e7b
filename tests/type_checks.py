"""What jaxtyping's import hook wraps every function of optishear in, made cheap.

Its own `jaxtyped` compiles two stand-ins of a function when it is defined, and binds and checks
the arguments twice in every call: two thirds of what the tests took. Here a function is looked at
when it is first called, checked once a call, and only one that has an array in its types gets a
scope for the names of its dimensions. What is refused is the same; what is said is the checker's.
In each test a function is checked the first times it is called (`MOST`): a solver's inner loop
passes the same things ten thousand times, which took half of what was left.
"""

import dataclasses
import functools
import inspect
from importlib.machinery import SourceFileLoader
from typing import Any, get_args, get_type_hints
from unittest.mock import patch

import jaxtyping
from jaxtyping import _import_hook


MOST = 8  # calls of a function that are checked in a test
test = 0  # a number of its own for each


def begin_test() -> None:
    """From here on every function is checked anew."""
    global test
    test += 1


def install() -> None:
    """Before anything that the hook instruments is imported; without the hook it does nothing."""
    jaxtyping.jaxtyped = jaxtyped
    _import_hook._JaxtypingLoader.exec_module = SourceFileLoader.exec_module
    _import_hook._JaxtypingLoader.get_code = _code_under_its_own_name


def _code_under_its_own_name(loader, name):
    """Compiled files of what is instrumented have names of their own. Theirs go by that name while
    the module runs, so that all of torch that it imports is looked for there and compiled anew."""
    own = functools.partial(
        _import_hook._optimized_cache_from_source, loader._typechecker.get_hash()
    )
    with patch("importlib._bootstrap_external.cache_from_source", own):
        return SourceFileLoader.get_code(loader, name)


theirs = jaxtyping.jaxtyped


def jaxtyped(what=None, *, typechecker):
    """As jaxtyping's, for functions, descriptors of them, and what builds a dataclass."""
    if what is None:
        return functools.partial(jaxtyped, typechecker=typechecker)
    if inspect.isclass(what):
        own = what.__dict__.get("__init__")
        if dataclasses.is_dataclass(what) and own and not hasattr(own, "_is_checked"):
            what.__init__ = _lazily_checked(own, typechecker)
        return what
    if isinstance(what, classmethod | staticmethod):
        return type(what)(jaxtyped(what.__func__, typechecker=typechecker))
    if isinstance(what, property):
        parts = (what.fget, what.fset, what.fdel)
        return property(*(part and _lazily_checked(part, typechecker) for part in parts))
    return _lazily_checked(what, typechecker)


def _lazily_checked(function, typechecker):
    checked, of_test, calls = None, test, 0

    @functools.wraps(function)
    def call(*args, **kwargs):
        __tracebackhide__ = True
        nonlocal checked, of_test, calls
        if of_test != test:
            of_test, calls = test, 0
        calls += 1
        if calls > MOST:
            return function(*args, **kwargs)
        if checked is None:
            checked = _checked(function, typechecker)
        return checked(*args, **kwargs)

    call._is_checked = True
    return call


def _checked(function, typechecker):
    """What is annotated by a name that exists only for static checkers is not checked.

    A generator runs when its scope is long gone, so its arguments need a stand-in.
    """
    if inspect.isgeneratorfunction(function):
        return theirs(function, typechecker=typechecker)
    hints = {name: _resolved(function, name) for name in function.__annotations__}
    function.__annotations__ = hints
    checked = typechecker(function)
    if not any(map(_has_arrays, hints.values())):
        return checked

    def scoped(*args, **kwargs):
        __tracebackhide__ = True
        with theirs("context"):
            return checked(*args, **kwargs)

    return scoped


def _resolved(function, name):
    alone = type("", (), {"__annotations__": {name: function.__annotations__[name]}})
    try:
        return get_type_hints(alone, function.__globals__, include_extras=True)[name]
    except NameError:
        return Any


def _has_arrays(hint) -> bool:
    if isinstance(hint, list):  # the arguments of a `Callable`
        return any(map(_has_arrays, hint))
    if inspect.isclass(hint) and issubclass(hint, jaxtyping.AbstractArray):
        return True
    return any(map(_has_arrays, get_args(hint)))
