"""From a process's end to a task's."""

import json

import pytest
from airflow.exceptions import AirflowFailException, AirflowNotFoundException, AirflowSkipException

from airflow_provider_sbx.api import errors
from airflow_provider_sbx.api.steps import Outcome
from airflow_provider_sbx.runs.ending import (
    as_task_failure,
    raise_unless_success,
    result_of,
    task_failures,
)
from tests.unit.builders import PROCESS, SANDBOX, T0_MS, result


def outcome(stdout="", stderr="", **changes):
    return Outcome.of(result(**changes), (stdout, False), (stderr, False), lost=False)


def end(found, skip=(99,)):
    raise_unless_success(SANDBOX, PROCESS, found, skip_on_exit_code=skip)


def test_the_result_is_small_and_json():
    found = outcome("out", "err", exit_code=0)

    assert json.loads(json.dumps(result_of(SANDBOX, PROCESS, found))) == {
        "sandbox_id": SANDBOX,
        "process_id": PROCESS,
        "status": "exited",
        "exit_code": 0,
        "stdout": "out",
        "stderr": "err",
        "stdout_truncated": False,
        "stderr_truncated": False,
        "output_lost": False,
        "started_at": "2023-11-14T22:13:20.000+00:00",
        "completed_at": "2023-11-14T22:13:21.000+00:00",
        "error": None,
    }


def test_times_that_the_service_does_not_say_are_none():
    found = result_of(SANDBOX, PROCESS, outcome(started_at=None, completed_at=None))

    assert (found["started_at"], found["completed_at"]) == (None, None)
    assert result_of(SANDBOX, PROCESS, outcome(started_at=0))["started_at"].startswith("1970")


def test_a_time_that_is_none_does_not_fail_a_task_that_succeeded():
    result_of(SANDBOX, PROCESS, outcome(completed_at=T0_MS * 1000))


def test_an_error_of_the_service_is_cleaned_for_the_database():
    assert result_of(SANDBOX, PROCESS, outcome(error="a\0b"))["error"] == "a\ufffdb"


def test_an_exit_code_of_0_is_a_success():
    end(outcome(exit_code=0))


@pytest.mark.parametrize("status", ["exited", "failed"])
@pytest.mark.parametrize("skip", [(99,), [7, 99], {99}, range(90, 100)])
def test_an_exit_code_to_skip_on_skips(status, skip):
    with pytest.raises(AirflowSkipException, match="exit code 99"):
        end(outcome(status=status, exit_code=99), skip)


@pytest.mark.parametrize("status", ["killed", "timed_out"])
def test_a_process_that_was_ended_skips_nothing_whatever_its_code(status):
    with pytest.raises(errors.ProcessError):
        end(outcome(status=status, exit_code=99))


@pytest.mark.parametrize(
    ("changes", "kind", "says"),
    [
        ({"exit_code": 3}, errors.ProcessFailedError, "failed with exit code 3"),
        ({"status": "failed", "exit_code": 3}, errors.ProcessFailedError, "failed with exit code 3"),
        ({"status": "failed", "exit_code": None}, errors.ProcessFailedError, "could not be run"),
        ({"status": "failed", "exit_code": 0}, errors.ProcessFailedError, "could not be run"),
        ({"exit_code": None}, errors.ProcessFailedError, "ended with status exited"),
        ({"status": "killed", "exit_code": None}, errors.ProcessKilledError, "was killed"),
        ({"status": "killed", "exit_code": 137}, errors.ProcessKilledError, r"was killed \(exit code 137\)"),
        ({"status": "timed_out", "exit_code": None}, errors.ProcessTimedOutError, "at its timeout"),
        ({"status": "queued", "exit_code": 0}, errors.ProcessFailedError, "ended with status queued"),
        ({"status": "brand-new", "exit_code": 0}, errors.ProcessFailedError, "status unknown"),
        ({"exit_code": 1, "error": "no such user"}, errors.ProcessFailedError, "no such user"),
    ],
)
def test_any_other_end_is_a_failure_that_says_which(changes, kind, says):
    with pytest.raises(kind, match=says) as caught:
        end(outcome(**changes))
    assert str(caught.value).startswith(f"Process {PROCESS} in sandbox {SANDBOX} ")


def test_a_failure_carries_the_last_lines_of_stderr():
    stderr = "\n".join(f"line {n}" for n in range(50)) + "\n\n"

    with pytest.raises(errors.ProcessFailedError) as caught:
        end(outcome(stderr=stderr, exit_code=1))
    lines = str(caught.value).splitlines()
    assert lines[0].endswith("The end of its stderr:")
    assert lines[1:] == [f"line {n}" for n in range(40, 50)]


def test_a_failure_with_a_long_line_stays_short():
    with pytest.raises(errors.ProcessFailedError) as caught:
        end(outcome(stderr="x" * 100_000, exit_code=1))
    assert len(str(caught.value)) < 2_200


# --- errors of the service -------------------------------------------------------------------

MISSING = errors.NotFoundError("no sandbox", status_code=404)
STOPPED = errors.SandboxNotRunningError("stopped", status_code=409)


@pytest.mark.parametrize(
    "error",
    [
        errors.InvalidParameterError("cwd", "bad", "mend"),
        errors.AuthenticationError("no", status_code=401),
        errors.AuthenticationError("no", status_code=403),
        errors.ResponseError("no such user", status_code=400),
        errors.ResponseError("no such directory", status_code=422),
        MISSING,
        STOPPED,
    ],
)
def test_what_a_retry_can_not_mend_fails_the_task_for_good(error):
    failure = as_task_failure(error, replaceable_sandbox=False)

    assert isinstance(failure, AirflowFailException)
    assert str(failure) == str(error)


@pytest.mark.parametrize(
    "error",
    [
        errors.TransportError("cut", surely_unsent=False),
        errors.ServiceUnavailableError("down"),
        errors.DecodeError("HTML"),
        errors.ResponseError("busy", status_code=429, retryable=True),
        errors.ResponseError("oops", status_code=500),
        errors.ProcessFailedError("exit 1"),
        errors.OutcomeUnknownError("start", errors.DecodeError("x")),
    ],
)
def test_what_a_retry_may_mend_is_raised_as_it_is(error):
    assert as_task_failure(error, replaceable_sandbox=False) is error


@pytest.mark.parametrize("error", [MISSING, STOPPED])
def test_the_loss_of_a_sandbox_that_the_next_try_makes_anew_is_no_reason_to_give_up(error):
    assert as_task_failure(error, replaceable_sandbox=True) is error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (AirflowNotFoundException("no such connection"), AirflowNotFoundException),
        (errors.InvalidParameterError("p", "bad", "Mend it."), AirflowFailException),
        (errors.NotFoundError("gone", status_code=404), AirflowFailException),
        (errors.ServiceError("away", retryable=True), errors.ServiceError),
        (errors.ProcessFailedError("exit 1"), errors.ProcessFailedError),
        (ConnectionError("Airflow's own"), ConnectionError),
    ],
)
def test_within_a_task_what_no_retry_mends_is_final_and_the_rest_stays_as_it_is(error, kind):
    with pytest.raises(kind, match=str(error).partition(":")[0]) as caught, task_failures():
        raise error
    assert (caught.value is error) is not (kind is AirflowFailException)
    assert caught.value.__cause__ is (error if kind is AirflowFailException else None)
