"""What comes over a process's event stream.

`started` opens a streaming start, `output` carries a piece of output, `done` the result,
`error` says that the receiver can't go on. Comment lines are heartbeats and never get here.
"""

from __future__ import annotations

import base64
import re
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from airflow_provider_sbx.api.errors import (
    EventUnreadableError,
    ReplayWindowExpiredError,
    ServiceError,
    StreamBrokenError,
)
from airflow_provider_sbx.api.models import ProcessResult, ProcessSummary
from airflow_provider_sbx.api.parsing import may_hold_halves, parse_json

HEARTBEAT_SECONDS = 15.0
"""How often the receiver sends a comment line on a stream without events."""

IDLE_SECONDS = 60.0
"""A stream without a single byte for this long is dead, as the vendor's clients take it."""

_SEQ = re.compile(r'"seq"\s*:\s*(\d{1,15})\b')

Read = TypeVar("Read", bound=BaseModel)

OutputStream = Literal["stdout", "stderr", "system"]


class Event(BaseModel):
    """Base of the events of a stream."""

    model_config = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)


class Started(Event):
    """The first event of a streaming start."""

    process: ProcessSummary


class Output(Event):
    """A piece of output: any bytes, which may cut a line or a character in two.

    :param seq: its sequence number; 1 for the first, rising by one.
    :param stream: where the process wrote it; `system` is the service's own voice.
    :param data: text, or base64 where `encoding` says so.
    :param timestamp: when the sandbox read it, in milliseconds since 1970.
    """

    seq: int
    stream: OutputStream
    data: str
    timestamp: int
    encoding: str | None = None

    @property
    def raw(self) -> bytes:
        """The bytes that were written.

        :raises EventUnreadableError: it claims to be base64 and isn't.
        """
        if self.encoding != "base64":
            return self.data.encode()
        try:
            return base64.b64decode(self.data, validate=True)
        except ValueError as error:
            message = f"Output event {self.seq} is not valid base64"
            raise EventUnreadableError(message, is_output=True, seq=self.seq) from error


class Done(Event):
    """The last event: the process ended and all its output was sent."""

    result: ProcessResult


class Failed(Event):
    """The receiver can't go on with this stream; the process may well do."""

    error: str = "The stream failed"
    code: str | None = None

    def as_error(self) -> ServiceError:
        """Return the error that it stands for."""
        if self.code == "replay_window_expired":
            return ReplayWindowExpiredError(self.error, status_code=410, code=self.code)
        return StreamBrokenError(f"The service broke the stream off: {self.error}")


def decode_event(name: str, data: bytes) -> Event | None:
    """Return the event, or None for a kind that this version does not know.

    :param name: the `event:` field.
    :param data: the `data:` field, JSON.
    :raises EventUnreadableError: the data can't be read.
    """
    try:
        match name:
            case "output":
                return _read(Output, data)
            case "done":
                return Done(result=_read(ProcessResult, data))
            case "started":
                return Started(process=_read(ProcessSummary, data))
            case "error":
                return _read(Failed, data)
            case _:
                return None
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]["msg"]
        # Within a string of the data its quotes would be escaped: it is the event's own number.
        seq = _SEQ.search(data.decode("utf-8", "replace"))
        raise EventUnreadableError(
            f"An event {name!r} can't be read: {problem}",
            is_output=name == "output",
            seq=int(seq[1]) if seq else None,
        ) from None


def _read(model: type[Read], data: bytes) -> Read:
    try:
        return model.model_validate_json(data)
    except ValidationError:
        # pydantic's parser takes neither half of a character nor bytes that are no text; ours is
        # slower and does.
        text = data.decode("utf-8", "replace")
        if not may_hold_halves(text) and "\ufffd" not in text:
            raise
        try:
            payload = parse_json(text)
        except ValueError:
            payload = None
        return model.model_validate(payload)
