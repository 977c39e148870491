"""Writes the main group of poetry.lock, in format 2.1 or later, as requirements with hashes."""

import sys

try:
    import tomllib
except ImportError:
    sys.exit("reading poetry.lock takes Python 3.11 or later; export a requirements.txt: poetry export -o requirements.txt")

with open("poetry.lock", "rb") as file:
    lock = tomllib.load(file)
for package in lock.get("package", []):
    name = package["name"]
    if "main" not in package.get("groups", ["main"]) or package.get("optional"):
        continue
    source = package.get("source", {}).get("type", "legacy")
    if source != "legacy":  # legacy is an index
        sys.exit("poetry.lock: package %s comes from a %s, which has no hash; use requirements.txt or uv.lock" % (name, source))
    markers = package.get("markers", "")
    if isinstance(markers, dict):  # by group
        markers = markers.get("main", "")
    hashes = "".join(" --hash=" + entry["hash"] for entry in package["files"])
    print("%s==%s%s%s" % (name, package["version"], markers and " ; " + markers, hashes))
