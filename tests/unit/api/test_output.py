import base64
import codecs
import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_sbx.api.events import Output
from airflow_provider_sbx.api.output import (
    LONGEST_LINE_CHARACTERS,
    QUIET_MS,
    REPAINT_MS,
    LineAssembler,
    Tail,
    bounded_tail,
    clean_text,
)
from tests.unit.builders import T0_MS, output


def event(seq, raw, *, stream="stdout", at_ms=T0_MS):
    return Output(
        seq=seq, stream=stream, data=base64.b64encode(raw).decode(), timestamp=at_ms, encoding="base64"
    )


def assembled(events, *, hand_over=False):
    lines, assembler = [], LineAssembler()
    for each in events:
        lines += assembler.feed(each)
        if hand_over:
            assembler = LineAssembler(json.loads(json.dumps(assembler.state())))
    return [*lines, *assembler.flush()]


def told(lines):
    return [(line.stream, line.text) for line in lines]


def cut(raw, places):
    edges = [0, *sorted({place % (len(raw) + 1) for place in places}), len(raw)]
    return [raw[a:b] for a, b in pairwise(edges)]


WIDE = "\u00fc\u20ac\U0001f600".encode()
PIECES = st.sampled_from([b"\n", b"\r", b"\r\n", b"a", b"line", WIDE, b"\xff", b"\x80", b"\xf0\x9f", b"\0"])
RAW = st.binary(max_size=40) | st.lists(PIECES, max_size=20).map(b"".join)
PLACES = st.lists(st.integers(0, 200), max_size=12)


@given(RAW, PLACES)
def test_any_cut_of_any_bytes_gives_the_same_lines_as_none(raw, places):
    whole = assembled([event(1, raw)])
    parts = assembled([event(seq, part) for seq, part in enumerate(cut(raw, places), 1)])

    assert told(parts) == told(whole)


@given(RAW, PLACES)
def test_going_on_from_a_state_in_json_changes_nothing_at_any_point(raw, places):
    events = [event(seq, part) for seq, part in enumerate(cut(raw, places), 1)]

    assert assembled(events, hand_over=True) == assembled(events)


@given(
    st.lists(
        st.tuples(st.sampled_from(["stdout", "stderr", "system"]), RAW, st.integers(0, 5_000)), max_size=12
    )
)
def test_reading_the_same_events_again_gives_the_same_lines_with_the_same_rising_stamps(pieces):
    at, events = T0_MS, []
    for seq, (stream, raw, pause) in enumerate(pieces, 1):
        at += pause
        events.append(event(seq, raw, stream=stream, at_ms=at))

    lines = assembled(events)

    assert lines == assembled(events, hand_over=True)
    assert all(a.timestamp_us < b.timestamp_us for a, b in pairwise(lines))


@given(st.lists(st.tuples(RAW, st.integers(-(10**18), 10**18)), max_size=8))
def test_no_bytes_and_no_times_crash_it(pieces):
    lines = assembled([event(seq, raw, at_ms=at) for seq, (raw, at) in enumerate(pieces, 1)])

    assert all("\n" not in line.text for line in lines)
    assert all(line.timestamp_us < 33e15 for line in lines)


@given(RAW)
def test_without_carriage_returns_the_lines_are_those_of_the_decoded_text(raw):
    raw = raw.replace(b"\r", b"")
    text = codecs.decode(raw, "utf-8", "replace")

    expected = text.removesuffix("\n").split("\n") if text else []
    assert [line.text for line in assembled([event(1, raw)])] == expected


# --- lines -----------------------------------------------------------------------------------


def test_a_line_over_two_events_is_one_line_with_the_seq_that_completed_it():
    assembler = LineAssembler()

    assert assembler.feed(output(1, "hel")) == []
    (line,) = assembler.feed(output(2, "lo\n"))
    assert (line.text, line.seq, line.stream, line.timestamp_us) == ("hello", 2, "stdout", T0_MS * 1000)


def test_a_character_cut_in_two_is_put_together_per_stream():
    first, second = "\u20ac".encode()[:1], "\u20ac".encode()[1:]
    events = [event(1, first), event(2, b"x\n", stream="stderr"), event(3, second + b"\n")]

    assert told(assembled(events)) == [("stderr", "x"), ("stdout", "\u20ac")]


def test_empty_lines_are_lines():
    assert told(assembled([output(1, "a\n\n\nb\n")])) == [("stdout", text) for text in ("a", "", "", "b")]


def test_lines_of_one_moment_have_rising_stamps():
    lines = assembled([output(1, "a\nb\nc\n")])

    assert [line.timestamp_us - T0_MS * 1000 for line in lines] == [0, 1, 2]


def test_stamps_rise_by_the_step_asked_for():
    lines = LineAssembler(step_us=1000).feed(output(1, "a\nb\n"))

    assert [line.timestamp_us - T0_MS * 1000 for line in lines] == [0, 1000]


def test_a_clock_that_goes_back_does_not_turn_lines_round():
    lines = assembled([output(1, "a\n", at_ms=T0_MS), output(2, "b\n", at_ms=T0_MS - 5_000)])

    assert lines[0].timestamp_us < lines[1].timestamp_us


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("10%\r20%\r30%\n", ["30%"]),
        ("10%\r20%\r\n", ["20%"]),
        ("a\r\nb\r\n", ["a", "b"]),
        ("\r\r\n", [""]),
        ("10%\r", ["10%"]),
    ],
)
def test_a_carriage_return_paints_a_line_over(written, shown):
    assert [line.text for line in assembled([output(1, written)])] == shown


def test_a_progress_bar_gathers_no_memory():
    assembler = LineAssembler()
    for seq in range(1, 1001):
        assembler.feed(output(seq, f"{seq}%" + "x" * 100 + "\r"))

    assert len(json.dumps(assembler.state())) < 300


def test_a_progress_bar_does_not_flood_but_is_shown_now_and_then():
    assembler, lines = LineAssembler(), []
    for step in range(300):
        lines += assembler.feed(output(step + 1, f"{step}%\r", at_ms=T0_MS + step * 100))

    assert 2 <= len(lines) <= 30_000 // REPAINT_MS


def test_a_line_longer_than_a_record_comes_in_pieces():
    text = "x" * (2 * LONGEST_LINE_CHARACTERS + 5)

    for events in ([output(1, text + "\n")], [output(1, text), output(2, "\n")]):
        assert [len(line.text) for line in assembled(events)] == [LONGEST_LINE_CHARACTERS] * 2 + [5]


def test_a_line_without_end_is_held_within_bounds():
    assembler = LineAssembler()
    for seq in range(1, 50):
        assembler.feed(output(seq, "x" * 10_000))

    assert len(json.dumps(assembler.state())) < LONGEST_LINE_CHARACTERS + 200


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_the_end_of_a_piece_is_no_empty_line(end):
    text = "x" * LONGEST_LINE_CHARACTERS

    assert [line.text for line in assembled([output(1, text + end[:-1]), output(2, "\n")])] == [text]


# --- lines without an end --------------------------------------------------------------------


def test_a_line_without_end_is_shown_after_a_quiet_moment_only():
    assembler = LineAssembler()
    assembler.feed(output(1, "Password: "))

    assert list(assembler.flush_due(T0_MS + QUIET_MS - 1)) == []
    assert assembler.has_open_line
    assert [line.text for line in assembler.flush_due(T0_MS + QUIET_MS)] == ["Password: "]
    assert not assembler.has_open_line
    assert list(assembler.flush_due(T0_MS + 10 * QUIET_MS)) == []


def test_a_line_that_was_shown_before_its_end_leaves_no_empty_line_behind():
    assembler = LineAssembler()
    assembler.feed(output(1, "Waiting..."))
    list(assembler.flush_due(T0_MS + QUIET_MS))

    assembler = LineAssembler(json.loads(json.dumps(assembler.state())))
    assert told(assembler.feed(output(2, "\nnext\n\n", at_ms=T0_MS + 9_000))) == [
        ("stdout", "next"),
        ("stdout", ""),
    ]


def test_what_follows_a_shown_beginning_is_a_line_of_its_own():
    events = [output(1, "Waiting..."), output(2, "done\n", at_ms=T0_MS + 9_000)]

    assert [line.text for line in assembled(events)] == ["Waiting...", "done"]


def test_the_other_streams_event_shows_a_line_that_waited_long_enough():
    events = [output(1, "ask? "), output(2, "x\n", stream="stderr", at_ms=T0_MS + QUIET_MS)]

    assert told(assembled(events)) == [("stdout", "ask? "), ("stderr", "x")]


def test_at_the_end_what_is_left_is_shown_even_half_a_character():
    assert told(assembled([event(1, b"end\xe2\x82")])) == [("stdout", "end\ufffd")]


# --- the ends that a result keeps ------------------------------------------------------------


@given(st.lists(st.binary(max_size=60), max_size=20), st.integers(0, 50))
def test_a_tail_keeps_the_last_bytes_whatever_the_pieces(pieces, limit):
    tail, raw = Tail(limit), b"".join(pieces)
    for piece in pieces:
        tail.add(piece)

    assert tail.truncated is (len(raw) > limit)
    whole = Tail(limit)
    whole.add(raw)
    assert tail.text == whole.text
    assert len(tail.text) <= limit


@given(st.text(), st.integers(0, 40))
def test_the_end_of_a_text_is_within_its_bytes_and_cuts_no_character(text, limit):
    text = clean_text(text)
    kept, cut_off = bounded_tail(text, limit)

    assert len(kept.encode()) <= limit
    assert text.endswith(kept)
    assert cut_off is (len(text.encode()) > limit)
    assert len(kept.encode()) > min(limit, len(text.encode())) - 4


def test_a_tail_holds_no_more_than_twice_its_limit_in_memory():
    tail = Tail(100)
    for _ in range(1000):
        tail.add(b"x" * 999)
        assert len(tail._kept) <= 200


def test_binary_output_is_kept_although_it_is_no_text():
    tail = Tail(10)
    tail.add(b"\x80" * 50)

    assert tail.text == "\ufffd" * 10


def test_a_tail_of_nothing_keeps_nothing_and_says_so():
    assert bounded_tail("abc", 0) == ("", True)
    assert bounded_tail("", 0) == ("", False)


@given(st.text(st.sampled_from("a\u20ac\0\n\ud83d\ude00\udfff")))
def test_clean_text_fits_into_a_database(text):
    cleaned = clean_text(text)

    assert "\0" not in cleaned
    assert cleaned.encode().decode() == cleaned
    assert json.loads(json.dumps(cleaned)) == cleaned
