"""Tells which kind of application a handler of the form module:app is."""

import inspect

from .load import HandlerUnfit

_LOOKED_FOR = (
    "looked for: a fetch handler (async def fetch(request, env, ctx), or an object with such a method), "
    "an ASGI 3 app (async, of scope, receive and send), a WSGI app (of environ and start_response)"
)


def serve(listener, env, name, app):
    """Gives the server of an application."""
    attribute = name.rpartition(":")[2]
    kind, app = kind_of(attribute, app)
    if kind == "wsgi":
        from .wsgi import Server

        return Server(listener, env, app)
    from .aio import Server

    if kind == "fetch":
        from .fetch import Fetch

        return Server(listener, env, Fetch(app, _count(app)))
    from .asgi import App

    return Server(listener, env, App(app))


def kind_of(name, app):
    """Gives "fetch", "asgi" or "wsgi" and what to call; raises HandlerUnfit for all else."""
    if hasattr(app, "fetch"):
        return "fetch", _fetch_of(name, app)
    if not callable(app):
        raise _unfit(name, "is a %s, not callable" % type(app).__name__)
    if isinstance(app, type):
        if _takes(app, 3) and hasattr(app, "__await__"):
            return "asgi", app
        if _takes(app, 2) and hasattr(app, "__iter__"):
            return "wsgi", app
        if _takes(app, 1) and _is_async(app.__call__) and _takes(app.__call__, 3):
            raise _asgi2(name)
        app = _made(name, app)
        if not callable(app):
            raise _unfit(name, "is a class whose instances are not callable")
    return _kind_of_callable(name, app), app


def _kind_of_callable(name, app):
    first = _first(app)
    if first == "event":
        raise HandlerUnfit("%r takes an event; handlers of events are named with a dot: MODULE.%s" % (name, name))
    if name == "fetch" or first in ("request", "req"):
        if not _is_async(app):
            raise _unfit(name, "takes a request, but is not async; write async def")
        if not _count(app):
            raise _unfit(name, "takes none of (request), (request, env), (request, env, ctx)")
        return "fetch"
    if _is_async(app):
        if _takes(app, 3):
            return "asgi"
        if _takes(app, 1) or _takes(app, 2):
            return "fetch"
        raise _unfit(name, "is async, but does not take 1 to 3 arguments")
    counts = [n for n in range(4) if _takes(app, n)]
    if counts in ([2], [1, 2], [0, 1, 2, 3]):  # the last is a wrapper that takes what comes, as WSGI's often do
        return "wsgi"
    if counts == [3]:
        return "asgi"  # it gives what is to be awaited
    if counts == [1]:
        raise _asgi2(name)
    if 0 in counts and 3 not in counts:
        hint = "can be called without arguments; if it makes the app, call it in the module: app = %s()" % name
        raise _unfit(name, hint)
    raise _unfit(name, "does not show by its arguments what it is")


def _fetch_of(name, app):
    if isinstance(app, type):
        app = _made(name, app)
    fetch = app.fetch
    if not _is_async(fetch) or not _count(fetch):
        raise _unfit(name, "has a fetch that is not async def fetch(request, env, ctx)")
    return fetch


def _made(name, kind):
    if not _takes(kind, 0):
        raise _unfit(name, "is a class that needs arguments; make an instance in the module and name that")
    return kind()


def _unfit(name, why):
    return HandlerUnfit("%r %s; %s" % (name, why, _LOOKED_FOR))


def _asgi2(name):
    return HandlerUnfit(
        "%r looks like an ASGI 2 app, which is called twice; wrap it: "
        "app = asgiref.compatibility.double_to_single_callable(%s)" % (name, name)
    )


def _is_async(function):
    """Tells whether calling gives a coroutine."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))


def _count(fetch):
    """Gives how many of request, env and ctx it takes; 0 when it takes none of the forms."""
    return next((n for n in (3, 2, 1) if _takes(fetch, n)), 0)


def _takes(function, count):
    try:
        inspect.signature(function).bind(*[None] * count)
    except (TypeError, ValueError):
        return False
    return True


def _first(function):
    try:
        return next(iter(inspect.signature(function).parameters), "")
    except (TypeError, ValueError):
        return ""
