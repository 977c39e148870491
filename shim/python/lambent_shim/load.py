"""Finds the handler, and says what is missing where it does not."""

import posix
import sys


class HandlerNotFound(Exception):
    """The message says what is missing, and what is there instead."""


class HandlerUnfit(HandlerNotFound):
    """What is there is nothing that can be served; the message says what could be."""


def load(handler):
    """Imports the module of module.function, or module:app, from the working directory and gives the rest."""
    module_name, _, name = handler.rpartition(":" if ":" in handler else ".")
    try:
        __import__(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if module_name == missing or module_name.startswith(missing + "."):
            raise HandlerNotFound(_no_module(module_name)) from None
        error.msg += " (the bundle has no such module; to add a package, name it in requirements.txt)"
        raise
    module = sys.modules[module_name]
    where = _where(module)
    try:
        function = getattr(module, name)
    except AttributeError:
        what, names = ("attribute", _values(module)) if ":" in handler else ("function", _names(module))
        raise HandlerNotFound("%s has no %s %r; it defines: %s" % (where, what, name, names)) from None
    if ":" not in handler and not callable(function):
        raise HandlerNotFound("%r in %s is a %s, not a function" % (name, where, type(function).__name__))
    return function


def _no_module(name):
    try:
        names = ", ".join(sorted(posix.listdir("."))[:20]) or "nothing"
    except OSError as error:
        names = str(error)
    return "the bundle has no %s.py; it holds: %s" % (name.replace(".", "/"), names)


def _where(module):
    file = getattr(module, "__file__", None) or module.__name__
    return file[len(posix.getcwd()) + 1 :] if file.startswith(posix.getcwd() + "/") else file


def _names(module):
    own = ((k, v) for k, v in vars(module).items() if getattr(v, "__module__", None) == module.__name__)
    names = [k for k, v in own if callable(v) and not k.startswith("_")]
    return ", ".join(names[:20]) or "nothing callable"


def _values(module):
    names = [k for k, v in vars(module).items() if not k.startswith("_") and type(v) is not type(sys)]
    return ", ".join(names[:20]) or "nothing"
