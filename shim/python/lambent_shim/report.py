"""Failures as the host gets them: {"type", "message", "trace"}.

It needs neither traceback nor json: the interpreter's own exception printer is written in C, survives
exceptions whose __str__ raises, and is there whatever the function's bundle shadows or broke.
"""

import sys
from io import StringIO

_OURS = ("lambent_shim", "asyncio")
_MAX_MESSAGE = 8 << 10
_MAX_LINES = 100
_MAX_LINE = 1 << 10


def describe(error):
    """Gives type, message and trace lines of an exception, our own frames left out."""
    error.__traceback__ = _trim(error.__traceback__)
    return type(error).__name__, _message(error), _render(error)


def _trim(trace):
    while trace and str(trace.tb_frame.f_globals.get("__name__")).partition(".")[0] in _OURS:
        trace = trace.tb_next
    return trace


def _message(error):
    try:
        return str(error)[:_MAX_MESSAGE]
    except BaseException:
        return "<the exception's str() failed>"


def _render(error):
    stderr = sys.stderr
    sys.stderr = text = StringIO()
    try:
        sys.__excepthook__(type(error), error, error.__traceback__)
    finally:
        sys.stderr = stderr
    return [line[:_MAX_LINE] for line in text.getvalue().splitlines()[-_MAX_LINES:]]


def refusal(status, code, kind, message):
    """Gives the answer to a request that did not reach the function."""
    return status, *_error(code, kind, message, [])


def failure(code, kind, message, trace):
    """Logs a failure of the function's and gives its answer."""
    log("\n".join(trace or ["%s: %s" % (kind, message)]))
    return 500, *_error(code, kind, message, trace)


def raised(code, error, exited):
    """The same of an exception; exited says, around its argument, that somebody called sys.exit."""
    kind, message, trace = describe(error)
    if isinstance(error, SystemExit):
        message = exited % message
    return failure(code, kind, message, trace)


def log(text):
    """Writes to the function's log."""
    try:
        sys.stderr.write(text + "\n")
    except Exception:
        pass  # the function closed or replaced stderr; the answer tells


def _error(code, kind, message, trace):
    return [("Content-Type", "application/json"), ("Lambent-Error", code)], encode(kind, message, trace)


def encode(kind, message, trace):
    """Gives the JSON of a failure."""
    lines = ",".join(map(_quote, trace))
    return ('{"type":%s,"message":%s,"trace":[%s]}' % (_quote(kind), _quote(message), lines)).encode("ascii")


def _quote(text):
    return '"%s"' % "".join(c if " " <= c <= "~" and c not in '"\\' else _escape(c) for c in text)


def _escape(c):
    units = c.encode("utf-16-be", "surrogatepass")
    return "".join("\\u" + units[i : i + 2].hex() for i in range(0, len(units), 2))
