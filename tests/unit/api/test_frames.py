"""What a function's process says to Airflow amid its output."""

import json

import pytest

from airflow_provider_sbx.api.frames import MARK, read_frame, without_frame


def framed(said, *, pieces=1):
    text = json.dumps(said)
    size = -(-len(text) // pieces)
    parts = [text[at : at + size] for at in range(0, len(text), size)]
    return [f"{MARK}{n}/{len(parts)}:{part}" for n, part in enumerate(parts, 1)]


def lines(*parts):
    return "".join(f"{part}\n" for part in parts)


@pytest.mark.parametrize("pieces", [1, 2, 7])
def test_a_frame_is_read_from_the_end_of_the_output(pieces):
    stdout = lines("some output", *framed({"result": {"a": [1, "é"]}}, pieces=pieces))

    assert read_frame(stdout) == {"result": {"a": [1, "é"]}}


def test_output_without_a_line_end_stands_before_a_frame():
    assert read_frame("half a line" + lines(*framed({"result": 1}))) == {"result": 1}


def test_lines_of_others_between_those_of_a_frame_do_no_harm():
    one, two = framed({"result": "x" * 50}, pieces=2)

    assert read_frame(lines(one, "a thread's last words", "half" + two)) == {"result": "x" * 50}


def test_the_line_ends_of_a_terminal_do_no_harm():
    assert read_frame("\r\n".join([*framed({"result": "xy"}, pieces=2), ""])) == {"result": "xy"}


def test_the_last_whole_frame_counts():
    assert read_frame(lines(*framed({"result": 1}), *framed({"result": 2}))) == {"result": 2}


@pytest.mark.parametrize(
    "stdout",
    [
        "",
        "output\n",
        lines(*framed({"result": "x" * 50}, pieces=3)[1:]),
        lines(*framed({"result": "x" * 50}, pieces=3)[:-1]),
        lines(*framed({"result": "x" * 50}, pieces=3)[::2]),
        lines(f"{MARK}1/1:{{"),
        lines(f"{MARK}1/1:[]"),
        lines(f"{MARK}what"),
    ],
)
def test_what_is_no_whole_frame_says_nothing(stdout):
    assert read_frame(stdout) is None


def test_a_log_shows_what_is_not_of_a_frame():
    (line,) = framed({"result": 1})

    assert [without_frame(text) for text in ("plain", "", line, f"half{line}")] == ["plain", "", None, "half"]
