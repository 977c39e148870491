"""The handler that executortest runs."""

import os
import sys
import time


def handler(event, context):
    path = event["rawPath"]
    if path == "/echo":
        return {"statusCode": 202, "headers": {"method": event["requestContext"]["http"]["method"]}, "body": event["body"]}
    if path == "/env":
        return dict(os.environ)
    if path == "/log":
        print("out", event["rawQueryString"])
        print("err", event["rawQueryString"], file=sys.stderr)
        return "logged"
    if path == "/sleep":
        print("sleeping", flush=True)
        time.sleep(float(event["rawQueryString"]))
        return "slept"
    if path == "/raise":
        raise ValueError("as asked")
    if path == "/exit":
        os._exit(3)
    if path == "/eat":
        return len(bytearray(1 << 30))
    if path == "/grow":
        everything = []
        while True:
            everything.append(bytearray(1 << 20))
    if path == "/status":
        with open("/proc/self/status") as f:
            return {name: value.strip() for name, _, value in (line.partition(":") for line in f)}
    raise KeyError(path)
