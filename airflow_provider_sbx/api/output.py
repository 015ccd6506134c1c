"""From pieces of output to whole lines, and to the bounded ends that a result keeps.

Everything here depends on the events alone, never on when they arrive: whoever reads the same
events again gets the same lines with the same stamps.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from typing import Any, NamedTuple

from airflow_provider_sbx.api.events import Output

DEFAULT_OUTPUT_BYTES = 64 * 1024
"""How much of each of stdout and stderr a result keeps, in bytes."""

DEFAULT_LOG_BYTES = 64 * 1024 * 1024
"""How much output is logged for one try of a task, in bytes."""

LONGEST_LINE_CHARACTERS = 16_384
"""A longer line is logged in pieces of this size: a log record must fit into memory and a browser."""

QUIET_MS = 1_000
"""A line without its end is shown once its stream was quiet for this long, in milliseconds."""

REPAINT_MS = 10_000
"""A line that is written on and on without an end (a progress bar) is shown this often, in milliseconds."""

_LATEST_MS = 32_503_680_000_000
"""The year 3000: what claims to be later is no time, and the log could not show it."""


class Line(NamedTuple):
    """One line of output; a tuple, since a frozen dataclass takes three times as long to make.

    :param stream: `stdout`, `stderr` or `system`.
    :param text: without its end.
    :param seq: sequence number of the event that completed it.
    :param timestamp_us: when the sandbox read it, in microseconds since 1970; rises from line to
        line, since lines of one event share its time.
    """

    stream: str
    text: str
    seq: int
    timestamp_us: int


class _OpenLine:
    """The unfinished end of one stream: a decoder, and text that waits for its line end."""

    def __init__(self) -> None:
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.has_part = False  # the decoder waits for the rest of a character
        self.text = ""
        self.shown = False  # a part of this line was shown already
        self.seq = 0
        self.since_ms = 0
        self.last_ms = 0

    def text_of(self, event: Output) -> str:
        """Return what an event adds to the text."""
        if event.encoding != "base64" and not self.has_part:
            return event.data
        text = self.decoder.decode(event.raw)
        self.has_part = bool(self.decoder.getstate()[0])
        return text

    def is_due(self, now_ms: int) -> bool:
        return bool(self.text) and (now_ms - self.last_ms >= QUIET_MS or now_ms - self.since_ms >= REPAINT_MS)


class LineAssembler:
    r"""Cuts output into lines, stream by stream, over any cut of bytes into events.

    A carriage return paints a line over: of `10%\r20%\r\n` the line `20%` is kept, as a terminal
    would show it. A line without an end is shown after a quiet moment, or now and then while it
    is painted over. Undecodable bytes become U+FFFD.

    :param state: what `state()` returned elsewhere, to go on from there.
    :param step_us: least time between two lines' stamps, in microseconds.
    """

    def __init__(self, state: dict[str, Any] | None = None, *, step_us: int = 1) -> None:
        self._step_us = step_us
        self._open: dict[str, _OpenLine] = {}
        self._last_us = 0
        if state:
            self._last_us = state["last_us"]
            for stream, held in state["open"].items():
                line = self._open[stream] = _OpenLine()
                line.text, line.seq, line.since_ms, line.last_ms = held[:4]
                line.decoder.setstate((bytes.fromhex(held[4]), 0))
                line.has_part = bool(held[4])
                line.shown = held[5]

    def state(self) -> dict[str, Any]:
        """Return what another assembler needs to go on; small and JSON-safe."""
        return {
            "last_us": self._last_us,
            "open": {
                stream: [o.text, o.seq, o.since_ms, o.last_ms, o.decoder.getstate()[0].hex(), o.shown]
                for stream, o in self._open.items()
            },
        }

    def feed(self, event: Output) -> list[Line]:
        """Take a piece of output and return the lines that it completes."""
        lines = list(self.flush_due(event.timestamp)) if self.has_open_line else []
        held = self._open.get(event.stream)
        if held is None:
            held = self._open[event.stream] = _OpenLine()
        text = held.text_of(event)
        if not text:
            return lines
        if not held.text:
            held.since_ms = event.timestamp
        held.seq, held.last_ms = event.seq, event.timestamp
        if held.text:
            text = held.text + text
        *whole, rest = text.split("\n")
        for part in whole:
            line = _painted(part)
            # The end of a line that was shown before its end is no empty line of its own.
            if line or not held.shown:
                if len(line) <= LONGEST_LINE_CHARACTERS:
                    lines.append(self._line(event.stream, line, held))
                else:
                    lines += self._cut(event.stream, line, held)
            held.shown = False
        if whole:
            held.since_ms = event.timestamp
        if "\r" in rest:
            rest = _last_painting(rest)
        while len(rest) > LONGEST_LINE_CHARACTERS:
            piece, rest = rest[:LONGEST_LINE_CHARACTERS], rest[LONGEST_LINE_CHARACTERS:]
            lines.append(self._line(event.stream, piece, held))
            held.shown = True
        held.text = rest
        return lines

    def flush_due(self, now_ms: int) -> Iterator[Line]:
        """Show the lines without an end that have waited long enough.

        :param now_ms: the sandbox's time, in milliseconds since 1970.
        """
        for stream, held in self._open.items():
            if held.is_due(now_ms):
                yield from self._flush(stream, held)

    def flush(self) -> Iterator[Line]:
        """Show all that is left; nothing comes after."""
        for stream, held in self._open.items():
            held.text += held.decoder.decode(b"", final=True)
            if held.text:
                yield from self._flush(stream, held)

    @property
    def has_open_line(self) -> bool:
        """Whether some text waits for its line end."""
        # Asked for with each event, and `any` would make a generator each time.
        for held in self._open.values():  # noqa: SIM110
            if held.text:
                return True
        return False

    def _flush(self, stream: str, held: _OpenLine) -> Iterator[Line]:
        text = _painted(held.text)
        held.text = ""
        held.since_ms = held.last_ms
        if text:
            held.shown = True
            yield from self._cut(stream, text, held)

    def _cut(self, stream: str, text: str, held: _OpenLine) -> Iterator[Line]:
        for start in range(0, len(text), LONGEST_LINE_CHARACTERS):
            yield self._line(stream, text[start : start + LONGEST_LINE_CHARACTERS], held)

    def _line(self, stream: str, text: str, held: _OpenLine) -> Line:
        earliest = self._last_us + self._step_us
        at = held.last_ms * 1000 if held.last_ms < _LATEST_MS else _LATEST_MS * 1000
        self._last_us = at if at > earliest else earliest
        return Line(stream, text, held.seq, self._last_us)


def _painted(text: str) -> str:
    """Return what a terminal shows of a line after its carriage returns."""
    if "\r" not in text:
        return text
    return next((part for part in reversed(text.split("\r")) if part), "")


def _last_painting(text: str) -> str:
    """Drop what is painted over already, so that a progress bar does not gather memory."""
    shown = _painted(text)
    return f"{shown}\r" if text.endswith("\r") else shown


class Tail:
    """The last bytes of a stream.

    :param limit: how many to keep, in bytes.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.total = 0
        self._kept = bytearray()

    def add(self, raw: bytes) -> None:
        """Take more bytes; older ones fall out."""
        self.total += len(raw)
        self._kept += raw[-self.limit :] if self.limit else b""
        if len(self._kept) > 2 * self.limit:
            del self._kept[: -self.limit]

    @property
    def truncated(self) -> bool:
        """Whether some fell out."""
        return self.total > self.limit

    @property
    def text(self) -> str:
        """The kept bytes as clean text."""
        kept = bytes(self._kept[-self.limit :]) if self.limit else b""
        if self.truncated:
            # The cut may have gone through a character: drop its remains, which are 3 bytes at most.
            remains = len(kept[:4]) - len(kept[:4].lstrip(bytes(range(0x80, 0xC0))))
            kept = kept[remains:] if remains < 4 else kept
        return clean_text(kept.decode("utf-8", "replace"))


def bounded_tail(text: str, limit: int) -> tuple[str, bool]:
    """Return the end of a text within a number of bytes, and whether something fell out."""
    tail = Tail(limit)
    tail.add(text.encode("utf-8", "replace"))
    return tail.text, tail.truncated


def clean_text(text: str) -> str:
    """Replace what JSON in a database can't hold: NUL (PostgreSQL refuses it) and lone surrogates."""
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode("utf-8")
