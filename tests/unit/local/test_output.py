"""The replay buffer: bounds, readers, back-pressure."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_sbx.local.output import OutputLog


def written(log: OutputLog, *pieces: bytes, stream: str = "stdout") -> OutputLog:
    for piece in pieces:
        log.append(stream, piece, is_text=True, timestamp=0)
    return log


def seqs(log: OutputLog, from_seq: int) -> list[int]:
    return [event.seq for event in log.batch(from_seq)]


def test_numbers_begin_at_1_and_rise_by_one() -> None:
    log = written(OutputLog(10_000), b"a", b"b", b"c")
    assert (log.first_seq, log.last_seq) == (1, 3)
    assert (seqs(log, 1), seqs(log, 3), seqs(log, 4)) == ([1, 2, 3], [3], [])


def test_an_empty_log_begins_at_what_is_to_come() -> None:
    log = OutputLog(100)
    assert (log.first_seq, log.last_seq, log.is_truncated, log.text("stdout")) == (1, 0, False, "")
    assert log.attach(1) is not None


def test_without_a_reader_the_oldest_goes() -> None:
    log = written(OutputLog(1000), *[b"x" * 100] * 20)
    assert log.is_truncated
    assert log.size <= 1000
    assert log.last_seq == 20
    assert log.attach(1) is None
    assert log.attach(log.first_seq) is not None
    assert not log.is_full


def test_a_reader_that_is_behind_fills_the_log() -> None:
    rooms: list[int] = []
    log = OutputLog(500, lambda: rooms.append(1))
    reader = log.attach()
    assert reader is not None
    while not log.is_full:
        written(log, b"x" * 100)
    assert not log.is_truncated
    assert rooms == []
    reader.took(1)
    assert rooms == [1]
    assert not log.is_full


def test_a_reader_that_goes_makes_room() -> None:
    rooms: list[int] = []
    log = OutputLog(500, lambda: rooms.append(1))
    reader = log.attach()
    assert reader is not None
    while not log.is_full:
        written(log, b"x" * 100)
    reader.close()
    assert rooms == [1]
    written(log, b"x" * 100)
    assert log.size <= 500


def test_the_slowest_of_several_readers_decides() -> None:
    log = OutputLog(500)
    fast, slow = log.attach(), log.attach()
    assert fast is not None
    assert slow is not None
    while not log.is_full:
        written(log, b"x" * 100)
    fast.took(log.last_seq)
    assert log.is_full
    slow.took(log.last_seq)
    assert not log.is_full


def test_text_is_told_apart_by_stream_and_never_fails() -> None:
    log = OutputLog(10_000)
    written(log, b"a\xc3", stream="stdout")
    written(log, b"err", stream="stderr")
    written(log, b"\xa9\xff", stream="stdout")
    assert (log.text("stdout"), log.text("stderr")) == ("aé\ufffd", "err")


def test_a_forgotten_log_is_truncated_and_keeps_its_count() -> None:
    log = written(OutputLog(10_000), b"a", b"b")
    log.close()
    log.forget()
    assert (log.is_truncated, log.size, log.last_seq, log.first_seq) == (True, 0, 2, 3)
    assert log.attach(1) is None


async def test_a_reader_waits_for_news_and_ends_with_the_log() -> None:
    log = OutputLog(10_000)
    reader = log.attach()
    assert reader is not None
    waiting = asyncio.ensure_future(reader.read())
    await asyncio.sleep(0)
    written(log, b"a", b"b")
    assert [event.data for event in await waiting] == [b"a", b"b"]
    reader.took(2)
    waiting = asyncio.ensure_future(reader.read())
    await asyncio.sleep(0)
    log.close()
    assert await waiting == []


@given(sizes=st.lists(st.integers(1, 300), max_size=60), limit=st.integers(1, 2000), every=st.integers(1, 7))
async def test_an_attached_reader_gets_every_event_once(sizes: list[int], limit: int, every: int) -> None:
    log = OutputLog(limit)
    reader = log.attach()
    assert reader is not None
    got: list[int] = []

    async def take() -> None:
        for event in await reader.read():
            got.append(event.seq)
            reader.took(event.seq)

    for number, size in enumerate(sizes):
        while log.is_full:  # where a pipe would be left unread
            await take()
        written(log, b"x" * size)
        if number % every == 0:
            await take()
    log.close()
    while await reader.read():
        await take()
    assert got == list(range(1, len(sizes) + 1))
    assert log.size <= limit + 364


@pytest.mark.parametrize("from_seq", [2, 3, 99])
def test_a_reader_may_begin_later(from_seq: int) -> None:
    log = written(OutputLog(10_000), b"a", b"b")
    reader = log.attach(from_seq)
    assert reader is not None
    assert seqs(log, reader.next_seq) == ([2] if from_seq == 2 else [])
