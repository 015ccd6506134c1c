"""What Airflow's metrics and traces are told of processes; `docs/metrics.md` lists the names.

Counted here and sent in batches: a process may write thousands of lines a second, and each number
that is sent is a packet.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any

from opentelemetry import trace

from airflow_provider_sbx.api.output import Line
from airflow_provider_sbx.api.steps import Entry
from airflow_provider_sbx.follow import Emit

BATCH_SECONDS = 10.0
"""Least time between two reports of a wait that goes on, in seconds."""

_tracer = trace.get_tracer("airflow_provider_sbx")
_open_streams = 0


class Meter:
    """The numbers of one task's process.

    :param stats: Airflow's metrics; see `compat.worker_stats` and `compat.triggerer_stats`.
    :param is_shared: many waits share this Python process, as in the triggerer: tell how many streams
        are open in it.
    """

    def __init__(self, stats: Any, *, is_shared: bool = False) -> None:
        self._stats = stats
        self._is_shared = is_shared
        self._lines = self._bytes = self._opened = 0
        self._reported_at = time.monotonic()

    def started(self, seconds: float) -> None:
        """Count a process that was started.

        :param seconds: how long the start took, in seconds.
        """
        self._stats.incr("sbx.process.started")
        self._stats.timing("sbx.process.start_duration", timedelta(seconds=seconds))

    def attached(self) -> None:
        """Count a process that was found again, after a lost worker or triggerer."""
        self._stats.incr("sbx.process.attached")

    def ended(self, status: str, seconds: float) -> None:
        """Count a process's end.

        :param status: how it ended.
        :param seconds: how long it was waited for here, in seconds.
        """
        self._stats.incr(f"sbx.process.ended.{status}")
        self._stats.timing("sbx.process.wait_duration", timedelta(seconds=seconds))

    def counting(self, emit: Emit) -> Emit:
        """Return an `emit` that counts lines and bytes as well."""

        def emit_and_count(entries: Sequence[Entry]) -> None:
            emit(entries)
            for entry in entries:
                if isinstance(entry, Line):
                    self._lines += 1
                    self._bytes += len(entry.text.encode("utf-8", "replace"))
            if time.monotonic() - self._reported_at >= BATCH_SECONDS:
                self.report()

        return emit_and_count

    def stream_opened(self) -> None:
        """Count a stream that is read; all but the first are reconnects."""
        self._opened += 1
        if self._opened > 1:
            self._stats.incr("sbx.stream.reconnects")
        self._count_open(1)

    def stream_closed(self) -> None:
        """Count it as read no more."""
        self._count_open(-1)

    def left(self) -> None:
        """Take the next stream for a first one: nothing cut the one before."""
        self._opened = 0

    def report(self) -> None:
        """Send what was counted and not sent yet."""
        for name, count in (("lines", self._lines), ("bytes", self._bytes)):
            if count:
                self._stats.incr(f"sbx.output.{name}", count)
        self._lines = self._bytes = 0
        self._reported_at = time.monotonic()

    def _count_open(self, change: int) -> None:
        global _open_streams
        if self._is_shared:
            _open_streams += change
            self._stats.gauge("sbx.streams.open", _open_streams, tags={"hostname": socket.gethostname()})


def span(name: str, **attributes: str) -> AbstractContextManager[trace.Span]:
    """Trace what is done within, where Airflow's tracing is on.

    :param name: the span's name.
    :param attributes: what it is about, without `sbx.` before the names.
    """
    # The proxy stands where nobody set tracing up. Its spans do nothing, but take 3 KB for as long as each
    # of a triggerer's thousands of waits.
    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return nullcontext(trace.INVALID_SPAN)
    told = {f"sbx.{key}": value for key, value in attributes.items()}
    return _tracer.start_as_current_span(name, attributes=told)
