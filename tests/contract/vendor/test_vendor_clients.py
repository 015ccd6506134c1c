"""The vendor's own clients can't tell the embedded server from the service, as far as processes go."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.contract.vendor.environments import Program, node_command, python_command

Run = Callable[[str], dict[str, Any]]

# Client, its kind, and how the server answers a start that would be streamed.
RUNS = [
    ("1.14.0", "sync", "streaming"),
    ("1.14.0", "async", "streaming"),
    ("1.3.0", "sync", "streaming"),
    ("1.3.0", "async", "streaming"),
    ("1.3.0", "sync", "plain"),
    ("1.3.0", "async", "plain"),
    ("node", "0.92.6", "streaming"),
    ("node", "0.92.6", "plain"),
]
REPLAY_BYTES = 128 * 1024
NOISY_BYTES = 300_000
SECRETS = {
    "secrets": {"token": "t-value", "other": "o-value"},
    "vaults": {"team": {"OTHER": "other"}},
}


@pytest.fixture(scope="module")
def servers(local_server: Callable[..., Any]) -> dict[str, Any]:
    """A server of each kind: with a small replay buffer, and three processes at once in a sandbox."""
    options = ("--replay-bytes", str(REPLAY_BYTES), "--max-processes", "3")
    env = {"SBX_LOCAL_SECRETS": json.dumps(SECRETS)}
    return {
        "streaming": local_server(*options, env=env),
        "plain": local_server(*options, "--plain-starts", env=env),
    }


@pytest.fixture(scope="module")
def start(servers: dict[str, Any]) -> Iterator[Callable[..., Program]]:
    """Start a driver with some of its scenarios, each once."""
    programs: dict[Any, Program] = {}

    def start(client: str, kind: str, starts: str, *scenarios: str) -> Program:
        key = (client, kind, starts, *scenarios)
        if key not in programs:
            if client == "node":
                command, env = node_command("drive_node.mjs")
            else:
                command, env = python_command(client, "drive_python.py"), {"SBX_CLIENT": kind}
            server = servers[starts]
            env |= {"SBX_URL": server.url, "SBX_KEY": server.api_key}
            programs[key] = Program([*command, *scenarios], env)
        return programs[key]

    yield start
    for program in programs.values():
        program.end()


@pytest.fixture(params=RUNS, ids="-".join)
def run(request: pytest.FixtureRequest, start: Callable[..., Program]) -> Run:
    """What one client saw in a scenario."""
    program = start(*request.param)

    def seen(scenario: str) -> dict[str, Any]:
        answer: dict[str, Any] = program.said()[scenario]
        assert "crashed" not in answer, answer["crashed"]
        return answer

    return seen


def exited(stdout: str = "", stderr: str = "", exit_code: int = 0) -> dict[str, Any]:
    return {"status": "exited", "exit_code": exit_code, "stdout": stdout, "stderr": stderr}


def refused(answer: dict[str, Any], status: int, code: str, *, service: str = "runtime") -> str:
    """Check an error's parts, and return its message."""
    assert (answer["status"], answer["code"], answer["service"]) == (status, code, service)
    assert answer["has_request_id"]
    assert answer["retryable"] is False
    message: str = answer["message"]
    return message


def test_a_sandbox_is_made_read_found_and_stopped(run: Run) -> None:
    seen = run("sandbox_life")
    assert (seen["made"], seen["read"], seen["listed"]) == ("active", [True, "active", 7], [True])
    assert (seen["stopped"], seen["then"]) == (True, "closed")


def test_a_stopped_sandbox_runs_nothing_more(run: Run) -> None:
    seen = run("sandbox_life")
    assert "is not running" in refused(seen["exec_by_another"], 409, "sandbox_not_running")
    # The client itself refuses here.
    assert seen["exec_by_who_stopped_it"]["code"] == "sandbox_not_running"


def test_a_command_runs_with_its_options(run: Run) -> None:
    seen = run("run")
    assert seen["seed"] == exited("/tmp\nbar\nroot\n")
    assert seen["default_user"] == exited("ubuntu\n")
    assert seen["exit_code"] == exited(stderr="no\n", exit_code=3)
    assert seen["time_limit"]["status"] == "timed_out"


def test_a_command_with_arguments_is_quoted_for_the_shell(run: Run) -> None:
    assert run("run")["args"] == exited("a b|it's|")


def test_output_that_is_no_text_is_replaced_as_the_service_does(run: Run) -> None:
    assert run("run")["not_utf8"] == exited("a\N{REPLACEMENT CHARACTER}b")


def test_a_process_reads_text_and_bytes_up_to_the_end_of_its_input(run: Run) -> None:
    seen = run("stdin")
    assert seen["text"] == exited("stdout:hello\n", "stderr:hello\n")
    assert seen["bytes"] == exited(" 00 ff 80\n")


def test_input_for_a_process_that_has_ended_is_refused(run: Run) -> None:
    assert "has exited" in refused(run("stdin")["late"], 409, "process_not_running")


def test_processes_are_read_and_listed_by_status_and_time_page_after_page(run: Run) -> None:
    seen = run("get_and_list")
    assert seen["got"] == [True, "running", "sleep 30"]
    assert seen["pages"] == [2, 1, True]
    assert seen["no_page_after_the_last"]
    assert (seen["later"], seen["around"], seen["ended"]) == (0, 3, 0)
    assert seen["refreshed"] == "killed"


def test_a_process_beyond_the_limit_is_queued_and_runs_in_its_turn(run: Run) -> None:
    assert run("get_and_list")["queued"] == ["queued", exited("after the others\n")]


def test_a_stream_brings_the_output_and_the_exit_event(run: Run) -> None:
    seen = run("stream")
    whole = [["stdout", 1, "out\n"], ["stderr", 2, "err\n"], ["exit", 4]]
    assert (seen["own"], seen["whole"], seen["rest"]) == (whole, whole, whole[1:])


def test_output_that_is_no_longer_kept_is_told(run: Run, request: pytest.FixtureRequest) -> None:
    seen = run("stream")
    assert "Replay window expired" in refused(seen["gone"], 410, "replay_window_expired")
    if "1.14.0" in request.node.callspec.id:
        assert seen["noisy_bytes"] == NOISY_BYTES  # streamed from the start, so that nothing is missing
    else:
        assert 0 < seen["noisy_bytes"] <= REPLAY_BYTES


def test_a_process_ends_by_signal_and_by_kill(run: Run) -> None:
    seen = run("ends")
    assert (seen["term"]["status"], seen["term"]["exit_code"]) == ("killed", 143)
    assert (seen["kill"]["status"], seen["kill"]["exit_code"]) == ("killed", 137)
    assert (seen["sigkill"]["status"], seen["sigkill"]["exit_code"]) == ("killed", 137)
    refused(seen["unknown_signal"], 400, "unknown_signal")


def test_a_wait_that_is_too_short_times_out(run: Run) -> None:
    assert "timed out" in refused(run("ends")["too_short"], 408, "wait_timeout")


@pytest.mark.parametrize(
    ("what", "status", "code", "service"),
    [
        ("unknown_process", 404, "process_not_found", "runtime"),
        ("unknown_sandbox", 404, "sandbox_not_found", "control"),
        ("unknown_directory", 400, "invalid_cwd", "runtime"),
        ("unknown_user", 400, "unknown_user", "runtime"),
        ("unknown_image", 404, "image_not_found", "control"),
        ("unknown_status", 400, "invalid_request", "runtime"),
        ("wrong_key", 401, "unauthorized", "control"),
        ("files", 501, "not_supported", "runtime"),
    ],
)
def test_what_cannot_be_is_refused(run: Run, what: str, status: int, code: str, service: str) -> None:
    refused(run("refusals")[what], status, code, service=service)


def test_a_token_that_is_no_longer_taken_is_renewed(run: Run) -> None:
    assert run("token_renewal")["exec"] == exited("renewed\n")


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_client_that_needs_streaming_starts_says_so_to_a_receiver_without(
    start: Callable[..., Program], kind: str
) -> None:
    seen = start("1.14.0", kind, "plain", "plain_starts").said()["plain_starts"]
    assert seen["start"]["code"] == "streaming_not_supported"


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_stored_secrets_reach_a_process(start: Callable[..., Program], kind: str) -> None:
    seen = start("1.14.0", kind, "streaming").said()["secrets"]
    assert seen["result"] == exited("t-value o-value\n")
    assert seen["names"] == ["other", "token"]
    refused(seen["unknown"], 404, "SECRET_NOT_FOUND", service="control")
