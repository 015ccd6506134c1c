import pytest
from pydantic import ValidationError

from airflow_provider_sbx.api.models import (
    ProcessPage,
    ProcessParameters,
    ProcessResult,
    ProcessStatus,
    ProcessSummary,
    Sandbox,
    SandboxPage,
    SandboxSpec,
    SandboxStatus,
    StartedProcess,
)
from airflow_provider_sbx.api.schema import MAX_SECRETS
from tests.unit.builders import T0_MS, process_body, result_body, sandbox_body


@pytest.mark.parametrize("status", ["exited", "failed", "killed", "timed_out"])
def test_four_statuses_are_ends(status):
    assert ProcessStatus(status).is_terminal


@pytest.mark.parametrize("status", ["queued", "running", "brand-new", None, 7])
def test_no_other_status_is_an_end_and_an_unknown_one_is_read(status):
    summary = ProcessSummary.model_validate(process_body(status=status))

    assert not summary.status.is_terminal


@pytest.mark.parametrize("status", ["closed", "error", "close-error"])
def test_a_sandbox_that_is_gone_is_known_as_gone(status):
    assert SandboxStatus(status).is_terminal


@pytest.mark.parametrize("status", ["active", "starting"])
def test_a_sandbox_that_runs_or_starts_is_not_gone(status):
    assert not SandboxStatus(status).is_terminal


@pytest.mark.parametrize(
    ("snake", "camel"),
    [("exit_code", "exitCode"), ("started_at", "startedAt"), ("completed_at", "completedAt")],
)
@pytest.mark.parametrize("model", [ProcessSummary, ProcessResult])
def test_both_spellings_of_a_field_are_read(model, snake, camel):
    for name in (snake, camel):
        body = {"id": "p-1", "status": "exited", name: "3"}
        assert getattr(model.model_validate(body), snake) == 3


def test_a_results_truncation_and_last_sequence_number_are_read_in_both_spellings():
    for names in (("output_truncated", "last_seq"), ("outputTruncated", "lastSeq")):
        read = ProcessResult.model_validate(
            {"id": "p", "status": "exited"} | dict(zip(names, (True, 9), strict=True))
        )
        assert (read.output_truncated, read.last_seq) == (True, 9)


@pytest.mark.parametrize("name", ["id", "processId", "process_id"])
def test_a_starts_id_may_come_under_three_names(name):
    read = StartedProcess.model_validate({"process": {name: "p-9", "status": "running"}})

    assert read.process.id == "p-9"


def test_an_id_must_be_there_and_not_empty():
    for body in ({"status": "running"}, {"id": "", "status": "running"}):
        with pytest.raises(ValidationError):
            ProcessSummary.model_validate(body)


def test_unknown_fields_are_ignored_and_optional_ones_may_be_missing():
    read = ProcessSummary.model_validate({"id": "p", "status": "running", "new_field": {"x": 1}})

    assert (read.command, read.pid, read.exit_code, read.started_at) == ("", None, None, None)


def test_an_empty_text_where_a_number_belongs_is_a_missing_number():
    read = ProcessSummary.model_validate(process_body(exit_code="", pid="", completed_at=""))

    assert (read.exit_code, read.pid, read.completed_at) == (None, None, None)


@pytest.mark.parametrize("cursor", [None, "abc", 17])
def test_a_cursor_is_text_or_none(cursor):
    page = ProcessPage.model_validate({"data": [process_body()], "next_cursor": cursor})

    assert page.next_cursor == (None if cursor is None else str(cursor))


# --- parameters ------------------------------------------------------------------------------


def test_parameters_go_out_under_their_wire_names_and_without_what_is_unset():
    params = ProcessParameters(
        command="make", cwd="/w", env={"A": "1"}, timeout_ms=5000, run_as="root", vault="v"
    )

    assert params.to_wire() == {
        "command": "make",
        "cwd": "/w",
        "env": {"A": "1"},
        "timeoutMs": 5000,
        "runAs": "root",
        "vault": "v",
    }
    assert ProcessParameters(command="make").to_wire() == {"command": "make"}


def test_a_secret_may_be_given_by_its_bare_name():
    params = ProcessParameters(command="x", secrets={"TOKEN": "my-token"})

    assert params.to_wire()["secrets"] == {"TOKEN": {"name": "my-token"}}


def test_secrets_vault_and_one_password_need_the_control_plane_and_plain_env_does_not():
    one_password = {"token": "t", "vault": "v", "fields": {"A": {"item": "i", "field": "f"}}}
    for extra in ({"secrets": {"A": "n"}}, {"vault": "v"}, {"one_password": one_password}):
        assert ProcessParameters(command="x", **extra).uses_secrets
    assert not ProcessParameters(command="x", env={"A": "1"}).uses_secrets
    assert not ProcessParameters(command="x", secrets={}).uses_secrets


@pytest.mark.parametrize("first", ["env", "secrets"])
def test_a_variable_may_come_from_one_source_only(first):
    one_password = {"token": "t", "vault": "v", "fields": {"A": {"item": "i", "field": "f"}}}

    with pytest.raises(ValidationError, match="A would come from both"):
        ProcessParameters(command="x", one_password=one_password, **{first: {"A": "n"}})
    with pytest.raises(ValidationError, match="A would come from both"):
        ProcessParameters(command="x", env={"A": "1"}, secrets={"A": "n"})


def test_more_secrets_than_the_service_takes_are_refused():
    names = {f"V{i}": "n" for i in range(MAX_SECRETS + 1)}

    with pytest.raises(ValidationError, match="33 variables would come from stored secrets"):
        ProcessParameters(command="x", secrets=names)
    names.popitem()
    assert len(ProcessParameters(command="x", secrets=names).secrets) == MAX_SECRETS
    one_password = {"token": "t", "vault": "v", "fields": {"A": {"item": "i", "field": "f"}}}
    with pytest.raises(ValidationError, match="33 variables would come from stored secrets"):
        ProcessParameters(command="x", secrets=names, one_password=one_password)


@pytest.mark.parametrize("version", [0, -1, "newest"])
def test_a_secrets_version_is_a_number_from_one_or_latest(version):
    with pytest.raises(ValidationError):
        ProcessParameters(command="x", secrets={"A": {"name": "n", "version": version}})


def test_an_unknown_option_is_a_mistake():
    with pytest.raises(ValidationError, match="timeout"):
        ProcessParameters(command="x", timeout=5)


def test_a_refused_value_stands_in_no_message():
    with pytest.raises(ValidationError) as caught:
        ProcessParameters(command="x", env={"A": ["hunter2"]})

    assert "hunter2" not in str(caught.value)


# --- sandboxes -------------------------------------------------------------------------------


def test_a_spec_goes_out_under_its_wire_names():
    spec = SandboxSpec(image_name="python", cpu=2, memory_mib=512, disk_mib=1024, timeout_minutes=10)

    assert spec.to_wire() == {
        "imageName": "python",
        "vcpus": 2,
        "memMiB": 512,
        "diskSizeMiB": 1024,
        "timeoutMinutes": 10,
    }


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({}, "exactly one"),
        ({"image_name": "a", "snapshot_name": "b"}, "exactly one"),
        ({"snapshot_name": "b", "image_id": "i"}, "image_id needs image_name"),
        ({"image_name": "a", "snapshot_id": "i"}, "snapshot_id needs snapshot_name"),
        ({"snapshot_name": "b", "cpu": 2, "vault": "v"}, "cpu, vault can't be given with snapshot_name"),
        ({"image_name": "a", "exposed_ports": [{"port": 70000}]}, "port"),
        ({"image_name": "a", "timeout_minutes": 0}, "timeout"),
    ],
)
def test_a_spec_that_can_not_be_made_is_refused(spec, says):
    with pytest.raises(ValidationError, match=says):
        SandboxSpec.model_validate(spec)


def test_a_sandboxes_token_stands_in_no_repr():
    sandbox = Sandbox.model_validate(sandbox_body("very-secret-token"))

    assert sandbox.token == "very-secret-token"
    assert "very-secret-token" not in repr(sandbox)
    assert "very-secret-token" not in str(sandbox)


def test_numbers_of_a_sandbox_may_come_as_text():
    sandbox = Sandbox.model_validate(sandbox_body(vcpus="2", memMiB="512", startTime=str(T0_MS)))

    assert (sandbox.cpu, sandbox.memory_mib, sandbox.start_time) == (2, 512, T0_MS)


@pytest.mark.parametrize(
    "written", ["2026-01-01T00:00:00Z", "2026-01-01T00:00:00.000+00:00", "2026-01-01T00:00:00"]
)
def test_a_time_can_be_compared_with_the_clock_whatever_zone_it_names(written):
    sandbox = Sandbox.model_validate(sandbox_body(tokenExpiresAt=written))

    assert sandbox.token_expires_at.utcoffset().total_seconds() == 0


def test_a_closed_sandbox_has_neither_token_nor_runtime():
    sandbox = Sandbox.model_validate({"id": "sb-1", "status": "closed", "tokenExpiresAt": ""})

    assert (sandbox.token, sandbox.runtime, sandbox.token_expires_at) == (None, None, None)


def test_a_page_of_sandboxes_is_read():
    page = SandboxPage.model_validate({"sandboxes": [sandbox_body()], "totalCount": "1", "perPage": 10})

    assert (page.sandboxes[0].id, page.total_count, page.per_page) == ("sb-1", 1, 10)


def test_a_result_without_output_has_empty_ends():
    read = ProcessResult.model_validate({"id": "p", "status": "killed"})

    assert (read.stdout, read.stderr, read.exit_code, read.output_truncated) == ("", "", None, False)
    assert ProcessResult.model_validate(result_body(exit_code=None)).exit_code is None
