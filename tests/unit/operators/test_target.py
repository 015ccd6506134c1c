"""Which process a task is about that it did not start."""

import pytest

from airflow_provider_sbx.api.errors import InvalidParameterError
from airflow_provider_sbx.operators.target import check_target, sandbox_of, target_of

STARTED = {"sandbox_id": "sb-1", "process_id": "p-1"}


def test_a_process_is_named_by_ids_or_by_the_result_of_the_task_that_started_it():
    assert target_of(None, "sb-1", "p-1") == ("sb-1", "p-1")
    assert target_of(None, None, "p-1") == (None, "p-1")
    assert target_of(STARTED, None, None) == ("sb-1", "p-1")
    assert target_of(STARTED | {"status": "running"}, "sb-1", None) == ("sb-1", "p-1")


def test_what_is_a_template_is_checked_when_it_is_rendered():
    check_target(None, "{{ x }}", "{{ y }}")
    check_target({"sandbox_id": "{{ x }}", "process_id": "{{ y }}"}, "sb-2", None)


@pytest.mark.parametrize(
    ("named", "parameter"),
    [
        ((None, "sb-1", None), "process, process_id"),
        ((STARTED, None, "p-1"), "process, process_id"),
        (("{{ x }}", None, "{{ y }}"), "process, process_id"),
        ((STARTED, "sb-2", None), "process, sandbox_id"),
        (({}, None, None), "process['sandbox_id']"),
        ((STARTED | {"process_id": None}, None, None), "process['process_id']"),
        ((None, 5, "p-1"), "sandbox_id"),
    ],
)
def test_no_name_or_two_are_refused(named, parameter):
    with pytest.raises(InvalidParameterError) as caught:
        check_target(*named)
    assert caught.value.parameter == parameter


def test_the_sandbox_is_the_tasks_before_the_connections():
    assert sandbox_of("sb-1", "sb-2") == "sb-1"
    assert sandbox_of(None, "sb-2") == "sb-2"
    with pytest.raises(InvalidParameterError, match="the connection names none"):
        sandbox_of(None, None)
