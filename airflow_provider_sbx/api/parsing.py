"""Reading JSON of a service that may cut text where it must not be cut."""

from __future__ import annotations

import json
import re
from typing import Any

_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")


def may_hold_halves(text: str) -> bool:
    """Whether JSON may hold half a character: a service that cuts UTF-16 in two writes such."""
    return _SURROGATE_ESCAPE.search(text) is not None


def parse_json(raw: bytes | str) -> Any:
    """Return what JSON says; half a character becomes U+FFFD, since nothing else could hold it.

    :raises ValueError: it is no JSON.
    """
    text = raw if isinstance(raw, str) else raw.decode("utf-8-sig")
    try:
        value = json.loads(text)
        return _whole(value) if may_hold_halves(text) else value
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _whole(value: Any) -> Any:
    match value:
        case str():
            return _SURROGATE.sub("\ufffd", value)
        case list():
            return [_whole(item) for item in value]
        case dict():
            return {_whole(key): _whole(item) for key, item in value.items()}
        case _:
            return value
