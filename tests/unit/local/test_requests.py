"""Reading what clients send: parameters, numbers, signals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_sbx.local import bodies
from airflow_provider_sbx.local.errors import ApiError
from airflow_provider_sbx.local.signals import signal_name, signal_number
from airflow_provider_sbx.local.tables import _directory

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def test_seconds_and_milliseconds_both_limit_the_time() -> None:
    assert bodies.process_parameters({"command": "c", "timeoutMs": 1500}).timeout_ms == 1500
    assert bodies.process_parameters({"command": "c", "timeout_sec": 2}).timeout_ms == 2000
    assert bodies.process_parameters({"command": "c", "timeoutMs": 5, "timeout_sec": 2}).timeout_ms == 2000
    assert bodies.process_parameters({"command": "c", "timeoutMs": 0, "timeout_sec": None}).timeout_ms is None


def test_arguments_become_part_of_the_command() -> None:
    params = bodies.process_parameters({"command": "echo", "args": ["a b", "$c"], "useShell": True})
    assert params.command == "echo 'a b' '$c'"


def test_members_that_nobody_knows_are_ignored() -> None:
    assert bodies.process_parameters({"command": "c", "colour": "red"}).command == "c"
    assert bodies.sandbox_spec({"imageName": "python", "colour": "red"}).image_name == "python"


def _status(read: Callable[[], object]) -> int:
    try:
        read()
    except ApiError as error:
        return error.status
    return 200


@given(body=st.dictionaries(st.sampled_from(sorted(bodies._names(bodies.ProcessParameters))), json_values))
def test_any_parameters_are_taken_or_refused(body: dict[str, Any]) -> None:
    assert _status(lambda: bodies.process_parameters({"command": "c", **body})) in (200, 400)


@given(body=st.dictionaries(st.sampled_from(sorted(bodies._names(bodies.SandboxSpec))), json_values))
def test_any_spec_is_taken_or_refused(body: dict[str, Any]) -> None:
    assert _status(lambda: bodies.sandbox_spec({"imageName": "python", **body})) in (200, 400)


@pytest.mark.parametrize(("value", "number"), [(5, 5), ("5", 5), (5.0, 5), (None, None), ("", None), (0, 0)])
def test_a_number_may_be_text(value: object, number: int | None) -> None:
    assert bodies.number("n", value) == number


@pytest.mark.parametrize(
    "value", [-1, "-1", 1.5, "1.5", "x", True, [], {}, 10**30, "9" * 30, float("nan"), "٣"]
)
def test_what_is_no_number_is_refused(value: object) -> None:
    with pytest.raises(ApiError, match="n must be"):
        bodies.number("n", value)


@pytest.mark.parametrize("value", ["TERM", "SIGTERM", "term", " SigTerm "])
def test_signals_have_one_name(value: str) -> None:
    assert signal_name(value) == "TERM"
    assert signal_number("TERM") == 15


@pytest.mark.parametrize("value", ["", "SIG", "_DFL", "BLOCK", "0", None, 9, "TERM;KILL"])
def test_what_is_no_signal_is_refused(value: object) -> None:
    with pytest.raises(ApiError) as caught:
        signal_name(value)
    assert caught.value.code == "unknown_signal"


@pytest.mark.parametrize(("cwd", "expected"), [(None, "/home/u"), ("/tmp", "/tmp"), ("a/b", "/home/u/a/b")])
def test_a_directory_is_absolute_or_below_the_home(cwd: str | None, expected: str) -> None:
    assert _directory(cwd, "/home/u") == expected
