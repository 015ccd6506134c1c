"""Which arguments a function in a sandbox gets, and in what form."""

import base64
import enum
import pickle
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from airflow_provider_sbx.api.errors import InvalidParameterError
from airflow_provider_sbx.decorators.arguments import (
    SENT_CONTEXT,
    arguments,
    as_json,
    as_pickle,
    check_context_names,
    check_known_arguments,
    check_serializer,
)

CONTEXT = {
    "ds": "2026-01-02",
    "ts": "2026-01-02T00:00:00+00:00",
    "params": {"n": 1},
    "logical_date": datetime(2026, 1, 2, tzinfo=UTC),
    "ti": object(),
}


class Later:
    """What another task returns, as long as it has not."""

    def resolve(self, context):
        return None

    def iter_references(self):
        return ()


class Lazy(Sequence):
    def __getitem__(self, index):
        return ["a", "b"][index]

    def __len__(self):
        return 2


Lazy.__module__ = "airflow.sdk.execution_time.lazy_sequence"


class Proxy:
    """As Airflow's own: it says that it is what is behind it."""

    def __init__(self, value):
        self._value = value

    @property
    def __class__(self):
        return type(self._value)

    def __iter__(self):
        return iter(self._value)


def fn(a=None, b=None, *, ds=None, logical_date=None, params=None):
    return a, b, ds, logical_date, params


def takes_any(*args, **kwargs):
    return args, kwargs


def refused(parameter, call, *args):
    with pytest.raises(InvalidParameterError) as caught:
        call(*args)
    assert caught.value.parameter == parameter
    return str(caught.value)


# --- which -----------------------------------------------------------------------------------


def test_a_function_gets_what_it_asks_for_of_the_context_as_json_can_hold_it():
    args, kwargs = arguments(fn, [1], {"b": 2}, CONTEXT)

    assert args == [1]
    assert kwargs == {
        "b": 2,
        "ds": "2026-01-02",
        "logical_date": "2026-01-02T00:00:00+00:00",
        "params": {"n": 1},
    }


@pytest.mark.parametrize(("behind", "sent"), [(CONTEXT["logical_date"], CONTEXT["ts"]), (None, None)])
def test_what_airflow_asks_for_late_is_asked_for(behind, sent):
    def asks(prev_start_date_success):
        return prev_start_date_success

    class Late:
        __wrapped__ = behind

    assert arguments(asks, [], {}, {"prev_start_date_success": Late()})[1] == {
        "prev_start_date_success": sent
    }


def test_what_is_given_comes_before_the_context():
    assert arguments(fn, [], {"ds": "mine"}, CONTEXT)[1]["ds"] == "mine"
    assert arguments(lambda ds: ds, ["mine"], {}, CONTEXT) == (["mine"], {})


def test_a_function_that_takes_any_keyword_gets_what_costs_no_request():
    context = CONTEXT | {"prev_start_date_success": object()}

    assert set(arguments(takes_any, [], {}, context)[1]) == set(CONTEXT) - {"ti"}


def test_a_run_without_a_date_says_so_before_anything_is_started():
    def needs(ds):
        return ds

    message = refused("op_args, op_kwargs", arguments, needs, [], {}, {})
    assert "needs can't be called: missing a required argument: 'ds'" in message
    assert "triggered without a date" in message


def test_a_part_of_the_context_that_can_not_be_sent_is_refused_by_its_name():
    def asks(ti, ds):
        return ti, ds

    message = refused("ti", check_context_names, asks, [], {})
    assert "logical_date, params" in message
    check_context_names(asks, [], {"ti": 5})
    check_context_names(asks, [5], {})
    assert SENT_CONTEXT.isdisjoint({"ti", "dag", "var", "conn", "task"})


# --- as JSON ---------------------------------------------------------------------------------


def test_arguments_come_as_jsons_own_types():
    class Colour(str, enum.Enum):  # noqa: UP042  # unlike a StrEnum, its text is not its value
        RED = "red"

    sent = as_json(takes_any, [(1, 2), Lazy(), Colour.RED], {"c": Proxy("text"), "d": {"e": [None, True]}})

    assert sent == {"args": [[1, 2], ["a", "b"], "red"], "kwargs": {"c": "text", "d": {"e": [None, True]}}}
    assert [type(value) for value in (sent["args"][2], sent["kwargs"]["c"])] == [str, str]


@pytest.mark.parametrize(
    ("value", "where", "what"),
    [
        (timedelta(1), "", "a timedelta can't be sent"),
        ([{"x": {1}}], "[0]['x']", "a set can't be sent"),
        (b"x", "", "a bytes can't be sent"),
        (float("inf"), "", "inf is no number in JSON"),
        ({1: 2}, "", "a key is a int"),
    ],
)
def test_an_argument_that_json_can_not_hold_is_refused_by_its_name(value, where, what):
    assert what in refused(f"op_kwargs['b']{where}", as_json, fn, [], {"b": value})
    assert 'serializer="cloudpickle"' in refused(f"b (op_args[1]){where}", as_json, fn, [1, value], {})


def test_arguments_are_checked_early_as_far_as_they_are_known():
    check_known_arguments(fn, [Later()], {"b": [Later(), "{{ ds }}"]})

    refused("op_kwargs['b'][1]", check_known_arguments, fn, [], {"b": [Later(), object()]})


# --- as a pickle -----------------------------------------------------------------------------


def test_a_serializer_is_checked(monkeypatch):
    assert "Use one of json, cloudpickle" in refused("serializer", check_serializer, "pickle")
    refused("serializer", check_serializer, None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "not installed" in refused("serializer", check_serializer, "cloudpickle")


def test_a_pickle_holds_the_function_by_value_with_what_it_closes_over():
    pytest.importorskip("cloudpickle")
    step = timedelta(days=1)

    def later(day, *, times):
        return day + step * times, Later.__name__

    sent = as_pickle(later, [datetime(2026, 1, 1)], {"times": 2})

    assert sent["python"] == f"{sys.version_info[0]}.{sys.version_info[1]}"
    raw = base64.b64decode(sent["pickled"])
    assert __name__.encode() + b"\x94\x8c\x05later" not in raw
    function, args, kwargs = pickle.loads(raw)
    assert function is not later
    assert function(*args, **kwargs) == (datetime(2026, 1, 3), "Later")


def test_what_can_not_be_pickled_is_refused_by_its_name():
    pytest.importorskip("cloudpickle")
    import threading

    refused("op_kwargs['b']", as_pickle, fn, [], {"b": threading.Lock()})
