"""What a handler is given and what its return value means.

The HTTP event is the payload 2.0 of API Gateway HTTP APIs: rawPath is percent-decoded, as they do.
The answer's default content type is application/json, as with Lambda function URLs.
"""

from binascii import a2b_base64, b2a_base64
from time import gmtime, time

from .wire import HOP_BY_HOP, BadResponse, Refused, is_token, is_value

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_TEXT = ("/json", "+json", "/xml", "+xml", "/javascript", "/x-www-form-urlencoded", "/x-ndjson", "/graphql", "/yaml")
_JSON = [("Content-Type", "application/json")]

class BadPayload(Exception):
    """The body is not the JSON that a handler takes."""


class Context:
    """What AWS Lambda's context object has."""

    identity = None
    client_context = None

    def __init__(self, env, invocation, deadline):
        namespace, name = env["LAMBENT_NAMESPACE"], env["LAMBENT_FUNCTION"]
        self.aws_request_id = invocation
        self.function_name = name
        self.function_version = env["LAMBENT_REVISION"]
        self.invoked_function_arn = "arn:lambent:lambda:local:%s:function:%s" % (namespace, name)
        self.memory_limit_in_mb = env["LAMBENT_MEMORY"]  # a string, as there
        self.log_group_name = "/lambent/%s/%s" % (namespace, name)
        self.log_stream_name = env["LAMBENT_INSTANCE"]
        self._deadline = deadline

    def get_remaining_time_in_millis(self):
        """Milliseconds until the invocation is cut off."""
        return max(0, int(self._deadline - time() * 1000))


def of_host(request):
    """Gives the invocation, trigger and deadline that the host says with a request."""
    headers = request.headers
    try:
        invocation, trigger = headers["lambent-invocation"], headers["lambent-trigger"]
        deadline = int(headers["lambent-deadline"])
    except (KeyError, ValueError) as error:
        raise Refused(400, "invalid_request", "a header of the host is missing or wrong: %s" % error) from None
    if trigger != "http" and trigger != "invoke":
        raise Refused(400, "invalid_request", "the trigger %r is unknown" % trigger)
    return invocation, trigger, deadline


def take(request, env):
    """Gives the event and the context of a request, and what encodes the handler's return value."""
    invocation, trigger, deadline = of_host(request)
    context = Context(env, invocation, deadline)
    if trigger == "invoke":
        given, encode = of_payload(request.body), to_payload
    else:
        given, encode = of_http(request, env["LAMBENT_NAMESPACE"], env["LAMBENT_FUNCTION"], invocation), to_http
    request.body = None  # the event has it; a handler that waits long should not hold it twice
    return given, context, encode


def of_payload(body):
    """Gives the event of a direct invocation: the body's JSON, or {} when it is empty, as Lambda does."""
    import json

    if not body:
        return {}
    try:
        return json.loads(body.decode("utf-8"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise BadPayload("the body is not UTF-8: byte %d" % error.start) from None
    except RecursionError:
        raise BadPayload("the body is nested too deeply") from None
    except ValueError as error:
        raise BadPayload("the body is not JSON: %s" % error) from None


def _refuse_constant(name):
    raise ValueError("%s is not a JSON number" % name)


def to_payload(result):
    """Gives the answer to a direct invocation."""
    return 200, _JSON, _encode(result)


def of_http(request, namespace, function, invocation):
    """Gives the event of an HTTP request."""
    headers = {k: v for k, v in request.headers.items() if not k.startswith("lambent-")}
    cookies = [c for c in map(str.strip, headers.pop("cookie", "").split(";")) if c]
    raw_path, _, query = request.target.partition("?")
    path = unquote(raw_path).decode("utf-8", "replace")
    host = headers.get("host", "")
    if not host.endswith("]"):
        host = host.rpartition(":")[0] or host
    body, is_base64 = _body(headers, request.body)
    route = unquote(request.headers.get("lambent-route", "$default")).decode("utf-8", "replace")
    now = time()
    t = gmtime(now)
    return {
        "version": "2.0",
        "routeKey": route,
        "rawPath": path,
        "rawQueryString": query,
        "cookies": cookies,
        "headers": headers,
        "queryStringParameters": _query(query),
        "requestContext": {
            "accountId": namespace,
            "apiId": function,
            "authentication": None,
            "authorizer": None,
            "domainName": host,
            "domainPrefix": host.partition(".")[0],
            "http": {
                "method": request.method,
                "path": path,
                "protocol": "HTTP/1.1",
                "sourceIp": headers.get("x-forwarded-for", "").rpartition(",")[2].strip(),
                "userAgent": headers.get("user-agent", ""),
            },
            "requestId": invocation,
            "routeKey": route,
            "stage": "$default",
            "time": "%02d/%s/%d:%02d:%02d:%02d +0000" % (t[2], _MONTHS[t[1] - 1], t[0], t[3], t[4], t[5]),
            "timeEpoch": int(now * 1000),
        },
        "body": body,
        "pathParameters": _query(request.headers.get("lambent-path-parameters", "")) or None,
        "isBase64Encoded": is_base64,
        "stageVariables": None,
    }


def unquote(text):
    """Gives the bytes that percent-encoded text stands for; what is no octet stays as it is."""
    first, *rest = text.encode("latin-1").split(b"%")
    out = [first]
    for part in rest:
        try:
            octet = bytes.fromhex(part[:2].decode("latin-1"))
        except ValueError:
            octet = b""
        out.append(octet + part[2:] if len(octet) == 1 else b"%" + part)
    return b"".join(out)


def _query(query):
    found = {}
    for pair in query.split("&"):
        if not pair:
            continue
        name, _, value = pair.replace("+", " ").partition("=")
        name, value = unquote(name).decode("utf-8", "replace"), unquote(value).decode("utf-8", "replace")
        found[name] = found[name] + "," + value if name in found else value
    return found


def _body(headers, raw):
    if not raw:
        return None, False
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if "content-encoding" not in headers and (not kind or kind.startswith("text/") or kind.endswith(_TEXT)):
        try:
            return raw.decode("utf-8"), False
        except UnicodeDecodeError:
            pass  # labelled as text, but binary all the same
    return b2a_base64(raw, newline=False).decode("ascii"), True


def to_http(result):
    """Gives the answer to an HTTP request: {statusCode, ...}, or any other JSON value as a 200."""
    if isinstance(result, str):
        return 200, _JSON, _utf8(result, "the returned string")
    if not isinstance(result, dict) or "statusCode" not in result:
        return to_payload(result)
    status = result["statusCode"]
    if not isinstance(status, int) or isinstance(status, bool) or not 200 <= status <= 599:
        raise BadResponse("statusCode is %.40r, not an integer from 200 to 599" % (status,))
    return status, _fields(result), _content(result)


def _fields(result):
    headers = result.get("headers")
    if headers is None:
        headers = {}
    if not isinstance(headers, dict):
        raise BadResponse("headers is a %s, not a dict" % _kind(headers))
    fields = []
    typed = False
    for name, value in headers.items():
        if not isinstance(name, str) or not is_token(name):
            raise BadResponse("headers: %.40r is not a valid header name" % (name,))
        if isinstance(value, bool):
            value = "true" if value else "false"
        elif isinstance(value, (int, float)):
            value = str(value)
        lower = name.lower()
        if lower != "content-length" and lower not in HOP_BY_HOP and not lower.startswith("lambent-"):
            fields.append((name, _value("headers[%r]" % name, value)))
            typed = typed or lower == "content-type"
    cookies = result.get("cookies")
    if cookies is None:
        cookies = []
    if not isinstance(cookies, (list, tuple)):
        raise BadResponse("cookies is a %s, not a list of strings" % _kind(cookies))
    fields += [("Set-Cookie", _value("cookies[%d]" % i, cookie)) for i, cookie in enumerate(cookies)]
    return fields if typed else _JSON + fields


def _value(where, value):
    if not isinstance(value, str):
        raise BadResponse("%s is a %s, not a string" % (where, _kind(value)))
    if not is_value(value):
        raise BadResponse("%s holds a line break or another character that no header may hold" % where)
    return value.strip(" \t")


def _content(result):
    body = result.get("body")
    is_base64 = result.get("isBase64Encoded")
    if is_base64 is not None and not isinstance(is_base64, bool):
        raise BadResponse("isBase64Encoded is a %s, not a bool" % _kind(is_base64))
    if body is None:
        return b""
    if not isinstance(body, str):
        hint = "base64-encode it and set isBase64Encoded" if isinstance(body, bytes) else "use json.dumps"
        raise BadResponse("body is a %s, not a string; %s" % (_kind(body), hint))
    if not is_base64:
        return _utf8(body, "body")
    try:
        raw = a2b_base64(body)
    except ValueError:
        raw = None
    # a2b_base64 skips what is not in the alphabet, so the round trip is the strict check.
    if raw is None or b2a_base64(raw, newline=False).decode("ascii") != body:
        raise BadResponse("isBase64Encoded is true, but body is not base64")
    return raw


def _utf8(text, where):
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadResponse("%s holds half of a surrogate pair at character %d" % (where, error.start)) from None


def _encode(value):
    import json

    try:
        return json.dumps(value, allow_nan=False, separators=(",", ":")).encode("ascii")
    except Exception as error:
        raise BadResponse("the return value is not JSON: %s" % (_culprit(value, "$", 0) or error)) from None


def _culprit(value, path, depth):
    """Says which part of value is not JSON; None when it cannot tell."""
    if depth > 100:
        return "%.80s... is nested too deeply, or contains itself" % path
    if value is None or isinstance(value, (str, int)):
        return None
    if isinstance(value, float):
        return None if abs(value) < float("inf") else "%s is %r" % (path, value)
    if isinstance(value, dict):
        for key, part in value.items():
            if key is not None and not isinstance(key, (str, int, float)):
                return "%s has a key that is a %s" % (path, _kind(key))
            if found := _culprit(part, "%s.%s" % (path, key), depth + 1):
                return found
        return None
    if isinstance(value, (list, tuple)):
        for i, part in enumerate(value):
            if found := _culprit(part, "%s[%d]" % (path, i), depth + 1):
                return found
        return None
    return "%s is a %s" % (path, _kind(value))


def _kind(value):
    return type(value).__name__
