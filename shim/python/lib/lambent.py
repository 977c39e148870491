"""What Lambent offers to the Python code that it runs.

Request and Response are those of a fetch handler; threads marks a handler of events that may run in several
threads at the same time. A module of the bundle that is named lambent takes this one's place.
"""

from lambent_shim.many import threads
from lambent_shim.web import Headers, Request, Response

__all__ = ["Headers", "Request", "Response", "threads"]
