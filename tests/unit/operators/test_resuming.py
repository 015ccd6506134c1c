"""What a task makes of the event that it is resumed with."""

import logging

import httpx
import pytest

from airflow_provider_sbx.api import errors
from airflow_provider_sbx.hooks.sandbox import SandboxHook
from airflow_provider_sbx.operators.resuming import error_of, fetched
from airflow_provider_sbx.triggers.event import ProcessEvent
from airflow_provider_sbx.triggers.process import failure_of
from tests.unit.builders import PROCESS, SANDBOX, result_body

WAIT = ("POST", f"/sandbox/processes/{PROCESS}/wait")


def event(**changes):
    return ProcessEvent(sandbox_id=SANDBOX, process_id=PROCESS, **changes)


@pytest.mark.parametrize(
    "kind",
    [errors.SandboxNotRunningError, errors.AuthenticationError, errors.NotFoundError],
)
def test_an_error_comes_back_from_the_triggerer_as_what_it_was(kind):
    failure = failure_of(kind("what happened", status_code=400))

    assert type(error_of(event(failure=failure, error="what happened"))) is kind


@pytest.mark.parametrize("failure", ["unavailable", "service"])
def test_what_may_pass_is_left_to_retries(failure):
    error = error_of(event(failure=failure))

    assert type(error) is errors.ServiceError
    assert error.retryable


def test_the_output_is_read_from_the_sandbox_and_bounded(network):
    network.queue(*WAIT, {"result": result_body(stdout="abcdef", stderr="e")})

    with SandboxHook() as hook:
        outcome = fetched(hook, event(exit_code=3), "exited", output_bytes=3, log=logging.getLogger())

    assert (outcome.stdout, outcome.stdout_truncated, outcome.stderr, outcome.stderr_truncated) == (
        "def",
        True,
        "e",
        False,
    )
    assert (outcome.exit_code, outcome.output_lost) == (3, False)


def test_output_that_is_gone_is_told_and_fails_nothing(network, caplog):
    network.queue(*WAIT, httpx.Response(404, json={"error": "gone"}))

    with SandboxHook() as hook:
        outcome = fetched(hook, event(exit_code=0), "exited", output_bytes=3, log=logging.getLogger())

    assert (outcome.exit_code, outcome.stdout, outcome.output_lost) == (0, "", True)
    assert "the log has it" in caplog.text
