"""Signals by name."""

from __future__ import annotations

import signal

from airflow_provider_sbx.local.errors import invalid

TERMINATING = frozenset({"TERM", "KILL", "INT", "HUP", "QUIT", "ABRT"})
"""Signals that end a process that does nothing about them, of those commonly sent."""


def signal_name(value: object) -> str:
    """Return a signal's name without `SIG`, in capitals.

    :param value: a name, with or without `SIG`, in any case.
    :raises ApiError: there is no such signal.
    """
    if isinstance(value, str):
        name = value.strip().upper().removeprefix("SIG")
        if f"SIG{name}" in signal.Signals.__members__:
            return name
    raise invalid("signal must be the name of a signal, such as TERM or SIGKILL", "unknown_signal")


def signal_number(name: str) -> int:
    """Return the number of a signal that `signal_name` returned."""
    return signal.Signals[f"SIG{name}"].value
