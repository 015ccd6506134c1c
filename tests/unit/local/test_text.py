"""Cutting bytes where characters end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_sbx.local.text import TextSplitter, incomplete_tail, is_text


@pytest.mark.parametrize(
    ("data", "count"),
    [
        (b"", 0),
        (b"abc", 0),
        ("é".encode(), 0),
        ("é".encode()[:1], 1),
        ("€".encode()[:2], 2),
        ("😀".encode()[:3], 3),
        (b"x" + "😀".encode()[:1], 1),
        (b"\xff", 0),  # begins no character
        (b"\xc0", 0),  # nor does this
        (b"\x80\x80\x80", 0),  # an end without a beginning
        (b"\xf5\x80", 0),
    ],
)
def test_the_beginning_of_a_character_is_told_from_garbage(data: bytes, count: int) -> None:
    assert incomplete_tail(data) == count


@given(text=st.text(), size=st.integers(1, 5))
def test_text_in_any_pieces_comes_out_as_text(text: str, size: int) -> None:
    data, splitter = text.encode(), TextSplitter()
    pieces = [splitter.feed(data[at : at + size]) for at in range(0, len(data), size)]
    found = [piece for piece in pieces if piece is not None]
    assert all(is_text(piece) and said for piece, said in found)
    assert b"".join(piece for piece, _ in found).decode() == text
    assert splitter.flush() is None


@given(pieces=st.lists(st.binary(min_size=1, max_size=6)))
def test_any_bytes_come_out_as_they_went_in(pieces: list[bytes]) -> None:
    splitter = TextSplitter()
    found = [splitter.feed(piece) for piece in pieces] + [splitter.flush()]
    assert b"".join(piece[0] for piece in found if piece is not None) == b"".join(pieces)
    assert all(is_text(data) for data, said in filter(None, found) if said)


def test_what_is_held_back_can_be_had() -> None:
    splitter = TextSplitter()
    assert splitter.feed(b"\xe2\x82") is None
    assert splitter.holds
    assert splitter.flush() == (b"\xe2\x82", False)
    assert not splitter.holds
