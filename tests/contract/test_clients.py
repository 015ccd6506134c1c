"""One suite of scenarios, played by both of our clients against the embedded server."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from airflow_provider_sbx.api.conversations import find_process, marked, process_key, terminate
from airflow_provider_sbx.api.errors import (
    AuthenticationError,
    InvalidParameterError,
    NotFoundError,
    ProcessExitedError,
    ResponseError,
    SandboxNotRunningError,
    TransportError,
    WaitTimeoutError,
)
from airflow_provider_sbx.api.events import Done, Output, Started
from airflow_provider_sbx.api.models import ProcessParameters, ProcessStatus
from airflow_provider_sbx.api.retrying import NO_RETRIES
from airflow_provider_sbx.client import AsyncSandboxClient, SandboxClient


class Played:
    """A client whose operations are called alike, whichever twin it is."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._loop = asyncio.new_event_loop()
        self.client = self.done(self._made(make))

    async def _made(self, make: Callable[[], Any]) -> Any:
        return make()

    def done(self, result: Any) -> Any:
        return self._loop.run_until_complete(result) if inspect.isawaitable(result) else result

    def __getattr__(self, name: str) -> Callable[..., Any]:
        operation = getattr(self.client, name)
        return lambda *args, **options: self.done(operation(*args, **options))

    def all_events(self, context: Any) -> tuple[Any, list[Any]]:
        """Enter a stream, read it to its end, and return what was entered with its events."""
        if hasattr(context, "__enter__"):
            with context as entered:
                return entered, list(getattr(entered, "events", entered) or [])

        async def read() -> tuple[Any, list[Any]]:
            async with context as entered:
                events = getattr(entered, "events", entered)
                return entered, [event async for event in events] if events is not None else []

        return self.done(read())

    def see(self, sandbox_id: str, process_id: str, text: str) -> None:
        """Read a process's events until it has written this."""
        context = self.client.stream(sandbox_id, process_id)
        if hasattr(context, "__enter__"):
            with context as events:
                assert any(writes(event, text) for event in events)
            return

        async def read() -> bool:
            async with context as events:
                async for event in events:
                    if writes(event, text):
                        return True
            return False

        assert self.done(read())

    def close(self) -> None:
        self.done(self.client.close())
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()


def writes(event: Any, text: str) -> bool:
    return isinstance(event, Output) and text in event.data


@pytest.fixture(params=[SandboxClient, AsyncSandboxClient], ids=["sync", "async"])
def twin(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def client(twin: Any, sbx_local: Any) -> Iterator[Played]:
    played = Played(lambda: twin(sbx_local.api_key, sbx_local.url, policy=NO_RETRIES))
    yield played
    played.close()


@pytest.fixture
def sandbox_id(client: Played) -> Iterator[str]:
    sandbox = client.create_sandbox({"image_name": "python", "timeout_minutes": 10})
    yield sandbox.id
    client.stop_sandbox(sandbox.id)


def test_a_command_runs_with_its_directory_variables_user_and_time_limit(
    client: Played, sandbox_id: str
) -> None:
    result = client.exec(
        sandbox_id,
        "pwd && echo $FOO && whoami",
        cwd="/tmp",
        env={"FOO": "bar"},
        timeout_ms=5_000,
        run_as="root",
    )
    assert (result.status, result.exit_code) == (ProcessStatus.EXITED, 0)
    assert result.stdout.splitlines() == ["/tmp", "bar", "root"]


def test_a_process_answers_to_its_input_on_both_outputs(client: Played, sandbox_id: str) -> None:
    process = client.start(sandbox_id, "read line; echo stdout:$line; echo stderr:$line 1>&2", run_as="root")
    client.write_stdin(sandbox_id, process.id, "hello\n", eof=True)
    result = client.wait(sandbox_id, process.id, timeout_seconds=10)
    assert (result.stdout, result.stderr) == ("stdout:hello\n", "stderr:hello\n")


def test_bytes_reach_a_process_as_they_are(client: Played, sandbox_id: str) -> None:
    process = client.start(sandbox_id, "od -An -tx1")
    client.write_stdin(sandbox_id, process.id, b"\x00\xff\x80", eof=True)
    assert client.wait(sandbox_id, process.id, timeout_seconds=10).stdout.split() == ["00", "ff", "80"]


def test_a_stream_brings_all_output_in_order_and_then_the_end(client: Played, sandbox_id: str) -> None:
    process = client.start(sandbox_id, "echo one; echo two 1>&2; exit 3")
    _, events = client.all_events(client.client.stream(sandbox_id, process.id))
    outputs = [event for event in events if isinstance(event, Output)]
    assert [event.seq for event in outputs] == list(range(1, len(outputs) + 1))
    assert {(event.stream, event.data) for event in outputs} == {("stdout", "one\n"), ("stderr", "two\n")}
    assert isinstance(events[-1], Done)
    assert (events[-1].result.exit_code, events[-1].result.last_seq) == (3, len(outputs))


def test_a_stream_goes_on_from_a_sequence_number(client: Played, sandbox_id: str) -> None:
    # On both outputs: what is written to one may come as one event, however it was written.
    process = client.start(sandbox_id, "echo one; echo two 1>&2")
    client.wait(sandbox_id, process.id, timeout_seconds=10)
    _, events = client.all_events(client.client.stream(sandbox_id, process.id, from_seq=2))
    assert [event.seq for event in events if isinstance(event, Output)] == [2]


def test_a_streaming_start_brings_the_output_from_the_first_byte(client: Played, sandbox_id: str) -> None:
    params = ProcessParameters(command="echo at once")
    started, events = client.all_events(client.client.start_streaming(sandbox_id, params))
    assert started.process.id
    assert not any(isinstance(event, Started) for event in events)
    assert "".join(event.data for event in events if isinstance(event, Output)) == "at once\n"
    assert isinstance(events[-1], Done)


def test_processes_are_read_and_listed(client: Played, sandbox_id: str) -> None:
    ids = {client.start(sandbox_id, f"sleep 30 # {n}").id for n in range(3)}
    page = client.list_processes(sandbox_id, status="running", limit=2)
    assert len(page.data) == 2
    assert page.next_cursor
    rest = client.list_processes(sandbox_id, status=["running"], limit=2, cursor=page.next_cursor)
    assert {process.id for process in [*page.data, *rest.data]} == ids
    one = client.get_process(sandbox_id, page.data[0].id)
    assert (one.status, one.exit_code) == (ProcessStatus.RUNNING, None)


def test_a_signal_ends_a_process(client: Played, sandbox_id: str) -> None:
    process = client.start(sandbox_id, "sleep 30", run_as="root")
    client.signal(sandbox_id, process.id, "SIGTERM")
    assert client.wait(sandbox_id, process.id, timeout_seconds=10).status is ProcessStatus.KILLED


def test_a_kill_ends_a_process_that_does_not_heed_term(client: Played, sandbox_id: str) -> None:
    process = client.start(sandbox_id, "trap '' TERM; while :; do sleep 1; done")
    client.kill(sandbox_id, process.id)
    assert client.wait(sandbox_id, process.id, timeout_seconds=10).status is ProcessStatus.KILLED


def test_ending_a_process_comes_to_kill_when_term_is_not_heeded(client: Played, sandbox_id: str) -> None:
    process = client.start(sandbox_id, "trap '' TERM; echo ready; while :; do sleep 0.1; done")
    client.see(sandbox_id, process.id, "ready")
    ending = client.converse(sandbox_id, terminate(process.id, grace_seconds=0.5))
    assert (ending.ended, ending.was_running) == (True, True)
    assert client.get_process(sandbox_id, process.id).exit_code == 137
    again = client.converse(sandbox_id, terminate(process.id, grace_seconds=0.5))
    assert (again.ended, again.was_running) == (True, False)


def test_a_process_is_found_again_by_its_key(client: Played, sandbox_id: str) -> None:
    key = process_key("dag", "run", "task", -1, 1)
    command = "cat <<'X'\n# not a comment 'of' \"ours\"\nX\n"
    process = client.start(sandbox_id, marked(command, key, "dag/task"))
    assert client.converse(sandbox_id, find_process(key)).id == process.id
    assert client.converse(sandbox_id, find_process(process_key("other"))) is None
    result = client.wait(sandbox_id, process.id, timeout_seconds=10)
    assert result.stdout == "# not a comment 'of' \"ours\"\n"


def test_a_process_runs_into_its_time_limit(client: Played, sandbox_id: str) -> None:
    assert client.exec(sandbox_id, "sleep 30", timeout_ms=200).status is ProcessStatus.TIMED_OUT


def test_a_wait_for_a_process_that_runs_on_says_so(client: Played, sandbox_id: str) -> None:
    process = client.start(sandbox_id, "sleep 30")
    with pytest.raises(WaitTimeoutError):
        client.wait(sandbox_id, process.id, timeout_seconds=0.1)


def test_input_for_a_process_that_ended_is_refused(client: Played, sandbox_id: str) -> None:
    process = client.start(sandbox_id, "true")
    client.wait(sandbox_id, process.id, timeout_seconds=10)
    with pytest.raises(ProcessExitedError):
        client.write_stdin(sandbox_id, process.id, "late")


def test_a_sandbox_is_made_read_and_stopped(client: Played) -> None:
    sandbox = client.create_sandbox({"image_name": "python"})
    assert client.get_sandbox(sandbox.id).status == "active"
    assert sandbox.session_url
    client.stop_sandbox(sandbox.id)
    assert client.get_sandbox(sandbox.id).status == "closed"
    with pytest.raises(SandboxNotRunningError) as raised:
        client.start(sandbox.id, "true")
    assert sandbox.id in str(raised.value)


@pytest.mark.parametrize(
    ("options", "named"),
    [({"cwd": "/no/such/place"}, "/no/such/place"), ({"run_as": "nobody-knows"}, "nobody-knows")],
    ids=["directory", "user"],
)
def test_what_the_sandbox_does_not_have_is_named(
    client: Played, sandbox_id: str, options: dict[str, str], named: str
) -> None:
    with pytest.raises(ResponseError) as raised:
        client.start(sandbox_id, "true", **options)
    assert raised.value.status_code == 400
    assert named in str(raised.value)
    assert raised.value.request_id


def test_an_unknown_process_or_sandbox_is_told(client: Played, sandbox_id: str) -> None:
    with pytest.raises(NotFoundError):
        client.get_process(sandbox_id, "no-such-process")
    with pytest.raises(NotFoundError):
        client.start("no-such-sandbox", "true")


def test_a_wrong_key_is_refused_and_not_shown(twin: Any, sbx_local: Any) -> None:
    wrong = Played(lambda: twin("wrong-key-123", sbx_local.url, policy=NO_RETRIES))
    with pytest.raises(AuthenticationError) as raised:
        wrong.list_sandboxes(limit=1)
    assert "API key" in str(raised.value)
    assert "wrong-key-123" not in str(raised.value)
    wrong.close()


def test_an_address_where_nobody_listens_is_told(twin: Any) -> None:
    lost = Played(lambda: twin("key", "http://127.0.0.1:9", policy=NO_RETRIES))
    with pytest.raises(TransportError) as raised:
        lost.list_sandboxes(limit=1)
    assert raised.value.surely_unsent
    lost.close()


def test_an_unknown_signal_is_refused_before_it_is_sent(client: Played, sandbox_id: str) -> None:
    with pytest.raises(InvalidParameterError, match="signal"):
        client.signal(sandbox_id, "any", "SIGNOPE")
