"""Prints where the time of the latest cold and warm calls of functions went: phases.py NAME...

Cold calls are those of NAME-cold, which never finds an instance."""

import json
import os
import statistics
import sys
import urllib.request

config = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
with open(os.path.join(config, "lambent", "context.json")) as f:
    context = json.load(f)
with open(context["key_file"]) as f:
    key = f.read().strip()


def calls(function, cold):
    url = f"{context['url']}/v1/invocations?namespace=default&function={function}&limit=10"
    request = urllib.request.Request(url, headers={"Authorization": "Bearer " + key})
    with urllib.request.urlopen(request, timeout=10) as answer:
        found = json.load(answer)["invocations"]
    return [c["phases_ms"] for c in found if bool(c.get("cold")) == cold]


phases = ["queue", "place", "fetch", "sandbox", "boot", "load", "handler", "respond"]
print(f"\nmedian ms   {'':14}" + "".join(f"{p:>9}" for p in phases) + f"{'total':>9}   calls")
for name in sys.argv[1:]:
    for kind, found in ("cold", calls(name + "-cold", True)), ("warm", calls(name, False)):
        if not found:
            sys.exit(f"phases: no {kind} call of {name} was recorded")
        cells = [statistics.median(c.get(p, 0) for c in found) for p in phases]
        total = statistics.median(sum(c.values()) for c in found)
        print(f"{name:18}{kind:8}" + "".join(f"{c:9.2f}" for c in cells) + f"{total:9.2f}{len(found):8}")
