"""A proxy that does to the traffic what networks, gateways and dying servers do to it.

It stands between a client of ours and a real server, speaks HTTP/1.1, knows event streams, and does
as its rules say. Its dice are the test's own, so that a seed brings the same trouble again.
"""

from tests.chaos.proxy.exchange import Request
from tests.chaos.proxy.server import ChaosProxy, Rule, asks_control, lists, starts, streams, writes_input

__all__ = [
    "ChaosProxy",
    "Request",
    "Rule",
    "asks_control",
    "lists",
    "starts",
    "streams",
    "writes_input",
]
