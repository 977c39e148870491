"""Who asked for what, as the gateway says it."""


def scheme(headers):
    """Gives http or https."""
    return "https" if headers.get("x-forwarded-proto") == "https" else "http"


def server(headers):
    """Gives the host that was asked and its port, as strings; the port may be that of the scheme."""
    host, _, port = headers.get("host", "").rpartition(":")
    if not port.isascii() or not port.isdigit():  # there is none; an IPv6 address ends in a bracket
        host, port = headers.get("host", ""), "443" if scheme(headers) == "https" else "80"
    return host or "localhost", port


def client(headers):
    """Gives the address of the client, or what stands for it; the last entry is the gateway's own."""
    return headers.get("x-forwarded-for", "").rpartition(",")[2].strip()


def prefix(headers):
    """Gives the path that the function is mounted at, which its targets are without."""
    return headers.get("x-forwarded-prefix", "").rstrip("/")
