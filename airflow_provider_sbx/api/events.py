"""What comes over a process's event stream.

`started` opens a streaming start, `output` carries a piece of output, `done` the result,
`error` says that the receiver can't go on. Comment lines are heartbeats and never get here.
"""

from __future__ import annotations

import base64
import binascii
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from airflow_provider_sbx.api.errors import StreamBrokenError
from airflow_provider_sbx.api.models import ProcessResult, ProcessSummary

HEARTBEAT_SECONDS = 15.0
"""How often the receiver sends a comment line on a stream without events."""

IDLE_SECONDS = 60.0
"""A stream without a single byte for this long is dead, as the vendor's clients take it."""

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

        :raises StreamBrokenError: it claims to be base64 and isn't.
        """
        if self.encoding != "base64":
            # A lone surrogate can stand in JSON but not in UTF-8.
            return self.data.encode("utf-8", "replace")
        try:
            return base64.b64decode(self.data, validate=True)
        except binascii.Error as error:
            raise StreamBrokenError(f"Output event {self.seq} is not valid base64") from error


class Done(Event):
    """The last event: the process ended and all its output was sent."""

    result: ProcessResult


class Failed(Event):
    """The receiver can't go on with this stream; the process may well do."""

    error: str = "The stream failed"
    code: str | None = None


def decode_event(name: str, data: str) -> Event | None:
    """Return the event, or None for a kind that this version does not know.

    :param name: the `event:` field.
    :param data: the `data:` field, JSON.
    :raises StreamBrokenError: the data can't be read; nothing after it can be trusted.
    """
    try:
        match name:
            case "output":
                return Output.model_validate_json(data)
            case "done":
                return Done(result=ProcessResult.model_validate_json(data))
            case "started":
                return Started(process=ProcessSummary.model_validate_json(data))
            case "error":
                return Failed.model_validate_json(data)
            case _:
                return None
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]["msg"]
        raise StreamBrokenError(f"An event {name!r} can't be read: {problem}") from None
