"""What a trigger tells its task."""

import json

import pytest

from airflow_provider_sbx.api.errors import SandboxError
from airflow_provider_sbx.api.steps import Outcome
from airflow_provider_sbx.triggers.event import ProcessEvent
from tests.unit.builders import PROCESS, SANDBOX, result

ENDED = {"sandbox_id": SANDBOX, "process_id": PROCESS, "status": "exited", "exit_code": 0}


def test_an_event_survives_its_way_through_the_database():
    outcome = Outcome.of(result(exit_code=3, error="x"), ("out", False), ("err", True), lost=True)
    event = ProcessEvent.of(SANDBOX, PROCESS, outcome)

    assert ProcessEvent.read(json.loads(json.dumps(event.model_dump(mode="json")))) == event
    assert (event.exit_code, event.error, event.output_lost) == (3, "x", True)


def test_an_event_holds_no_output():
    outcome = Outcome.of(result(), ("hunter2", False), ("hunter2", True), lost=True)

    assert "hunter2" not in repr(ProcessEvent.of(SANDBOX, PROCESS, outcome).model_dump())


@pytest.mark.parametrize(
    "odd",
    [
        None,
        {},
        [],
        "exited",
        {"status": "success", "message": "done"},
        {name: value for name, value in ENDED.items() if name != "process_id"},
        ENDED | {"exit_code": "zero"},
        ENDED | {"exit_code": 0.5},
        ENDED | {"failure": "brand-new"},
        ENDED | {"sandbox_id": None},
    ],
)
def test_a_missing_or_odd_event_is_an_error(odd):
    with pytest.raises(SandboxError, match="whether it succeeded is not known"):
        ProcessEvent.read(odd)


def test_a_status_that_is_not_known_is_read_as_no_end():
    assert not ProcessEvent.read(ENDED | {"status": "brand-new"}).status.is_terminal


def test_what_a_later_version_adds_is_passed_over():
    assert ProcessEvent.read(ENDED | {"brand_new": 1}).exit_code == 0
