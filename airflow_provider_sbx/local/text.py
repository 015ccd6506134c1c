"""Cutting a stream of bytes into pieces of UTF-8 where it can be."""

from __future__ import annotations


class TextSplitter:
    """Keeps a character whose bytes come in two reads together."""

    def __init__(self) -> None:
        self._held = b""

    @property
    def holds(self) -> bool:
        """Whether the beginning of a character waits for its rest."""
        return bool(self._held)

    def feed(self, data: bytes) -> tuple[bytes, bool] | None:
        """Return what can be passed on, and whether it is text; None where nothing can yet."""
        data = self._held + data
        cut = len(data) - incomplete_tail(data)
        data, self._held = data[:cut], data[cut:]
        return (data, is_text(data)) if data else None

    def flush(self) -> tuple[bytes, bool] | None:
        """Return what was held back; its rest did not come."""
        held, self._held = self._held, b""
        return (held, False) if held else None


def is_text(data: bytes) -> bool:
    """Whether these bytes are UTF-8 from end to end."""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def incomplete_tail(data: bytes) -> int:
    """Return how many of the last bytes begin a character without ending it; at most 3."""
    for back in range(1, min(3, len(data)) + 1):
        byte = data[-back]
        if byte & 0b1100_0000 == 0b1000_0000:
            continue  # within a character
        if 0xC2 <= byte <= 0xF4:
            length = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return back if back < length else 0
        return 0
    return 0
