"""A module that cannot be loaded."""

print("loading")
raise RuntimeError("no luck today")
