"""Handlers of events that serve several at a time: by asyncio, or by threads where they say so."""

from .load import HandlerUnfit


def serve(listener, env, name, handler):
    """Gives the server of a handler; raises HandlerUnfit where it does not say how it serves several."""
    if getattr(handler, "__lambent_threads__", False):
        from .threads import Server

        return Server(listener, env, handler)
    import inspect

    if not inspect.iscoroutinefunction(handler) and not inspect.iscoroutinefunction(handler.__call__):
        raise HandlerUnfit(
            "concurrency is %s, but %s is neither async nor marked for threads; write async def, or from lambent "
            "import threads and @threads above it, or set concurrency: 1" % (env["LAMBENT_CONCURRENCY"], name)
        )
    from .aio import Events, Server

    return Server(listener, env, Events(handler, env))


def threads(handler):
    """Marks a handler of events that may run in several threads at the same time."""
    import inspect

    if inspect.iscoroutinefunction(handler):
        raise TypeError("@threads is for plain functions; an async one needs no mark")
    handler.__lambent_threads__ = True
    return handler
