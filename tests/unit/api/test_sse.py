"""From bytes to events, over any cut."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_sbx.api.errors import EventUnreadableError
from airflow_provider_sbx.api.events import Done
from airflow_provider_sbx.api.sse import EventDecoder
from tests.unit.builders import result_body, sse, sse_output

BODY = (
    b": heartbeat\n\n" + sse_output(1, "h\u00e9\u20ac\n") + sse("resized", {"rows": 3}) + sse_output(2, "b")
)


def read(*pieces):
    decoder = EventDecoder()
    return [event for piece in pieces for event in decoder.feed(piece)]


def data_of(*pieces):
    return [event.data for event in read(*pieces)]


@given(st.sets(st.integers(1, len(BODY) - 1)), st.sampled_from([b"\n", b"\r\n", b"\r"]))
def test_events_are_the_same_over_any_cut_and_any_line_end(cuts, line_end):
    body = BODY.replace(b"\n", line_end)
    at = [0, *sorted(cuts), len(body)]

    assert data_of(*[body[start:end] for start, end in itertools.pairwise(at)]) == [
        "h\u00e9\u20ac\n",
        "b",
    ]


def test_an_event_comes_with_its_blank_line_and_not_a_piece_later():
    decoder = EventDecoder()

    assert not list(decoder.feed(sse_output(1, "a").rstrip(b"\n") + b"\r\n"))
    assert [event.data for event in decoder.feed(b"\r")] == ["a"]
    assert not list(decoder.feed(b"\n"))


def test_an_event_without_its_blank_line_is_none():
    assert read(sse_output(1, "a")[:-1]) == []


@pytest.mark.parametrize(
    "block",
    [
        b'data: {"seq": 1, "stream": "stdout",\ndata: "data": "a", "timestamp": 1}\nevent: output',
        b'event:output\nid: 7\nretry: 10\ndata:{"seq": 1, "stream": "stdout", "data": "a", "timestamp": 1}',
        b'\n\n: hello\nevent: output\ndata: {"seq": 1, "stream": "stdout", "data": "a", "timestamp": 1}\nodd',
    ],
)
def test_fields_may_come_in_any_order_and_form(block):
    assert data_of(block + b"\n\n") == ["a"]


def test_a_large_event_in_many_pieces_is_one():
    body = sse("done", result_body(stdout="x" * 1_000_000))

    (event,) = read(*[body[start : start + 1000] for start in range(0, len(body), 1000)])

    assert isinstance(event, Done)
    assert len(event.result.stdout) == 1_000_000


def test_events_before_one_that_can_not_be_read_are_had():
    events = EventDecoder().feed(sse_output(1, "a") + b"event: output\ndata: {oops\n\n" + sse_output(2, "b"))

    assert next(events).data == "a"
    with pytest.raises(EventUnreadableError):
        next(events)


def test_bytes_that_are_no_text_are_shown_as_such():
    body = json.dumps({"seq": 1, "stream": "stdout", "data": "a?b", "timestamp": 1}).encode()

    assert data_of(b"event: output\ndata: " + body.replace(b"?", b"\xff") + b"\n\n") == ["a\ufffdb"]
