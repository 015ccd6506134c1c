"""Our clients put the same requests on the wire as the vendor's.

The same method, path, query, authentication, content type, accepted answer and body, but for the differences
listed below.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from airflow_provider_sbx.api.models import ProcessParameters
from airflow_provider_sbx.api.retrying import NO_RETRIES
from airflow_provider_sbx.client import AsyncSandboxClient, SandboxClient
from tests.contract.vendor.environments import Program, python_command
from tests.contract.vendor.recorder import HOST_BOX, PATH_BOX, Recorder, Request
from tests.contract.vendor.values import COMMON, IMAGE, ONE_PASSWORD, RUN, SECRETS, SOME, STORED, TEAM

KEY = "key-of-the-parity-test"
BOXES = (PATH_BOX, HOST_BOX)

OURS: dict[str, Callable[[Any, str], Any]] = {
    "create": lambda client, box: client.create_sandbox({"image_name": "python"}),
    "create_image": lambda client, box: client.create_sandbox({**IMAGE, **COMMON}),
    "create_stored": lambda client, box: client.create_sandbox({"image_name": "python", **STORED}),
    "create_snapshot": lambda client, box: client.create_sandbox(
        {"snapshot_name": "snap", "snapshot_id": "snap-1", **COMMON}
    ),
    "get_sandbox": lambda client, box: client.get_sandbox(box),
    "stop_sandbox": lambda client, box: client.stop_sandbox(box),
    "list_sandboxes": lambda client, box: client.list_sandboxes(**TEAM),
    "list_sandboxes_all": lambda client, box: client.list_sandboxes(),
    "list_images": lambda client, box: client.list_images(**SOME),
    "list_images_all": lambda client, box: client.list_images(),
    "list_snapshots": lambda client, box: client.list_snapshots(**SOME),
    "start": lambda client, box: client.start(box, "echo 'a b'"),
    "start_options": lambda client, box: client.start(box, "true", **RUN),
    "start_streaming": lambda client, box: client.start_streaming(
        box, ProcessParameters(command="echo 'a b'")
    ),
    "start_streaming_options": lambda client, box: client.start_streaming(
        box, ProcessParameters(command="true", **RUN)
    ),
    "start_seconds": lambda client, box: client.start_streaming(
        box, ProcessParameters(command="true", timeout_ms=5000)
    ),
    "start_secrets": lambda client, box: client.start(box, "true", secrets=SECRETS, **RUN),
    "start_vault": lambda client, box: client.start(box, "true", vault="team"),
    "start_1password": lambda client, box: client.start(box, "true", one_password=ONE_PASSWORD),
    "exec": lambda client, box: client.exec(box, "echo 'a b'"),
    "exec_options": lambda client, box: client.exec(box, "true", **RUN),
    "get_process": lambda client, box: client.get_process(box, "proc-1"),
    "list_processes_all": lambda client, box: client.list_processes(box),
    "list_processes": lambda client, box: client.list_processes(
        box, status=["running", "queued"], limit=5, cursor="c&1", created_after=1, created_before=2
    ),
    "list_processes_status": lambda client, box: client.list_processes(box, status="exited"),
    "wait": lambda client, box: client.wait(box, "proc-1", timeout_seconds=5),
    "wait_default": lambda client, box: client.wait(box, "proc-1"),
    "stream": lambda client, box: client.stream(box, "proc-1"),
    "stream_from_1": lambda client, box: client.stream(box, "proc-1", from_seq=1),
    "stream_from_7": lambda client, box: client.stream(box, "proc-1", from_seq=7),
    "stdin_text": lambda client, box: client.write_stdin(box, "proc-1", "hello\n"),
    "stdin_text_eof": lambda client, box: client.write_stdin(box, "proc-1", "caf\u00e9", eof=True),
    "stdin_bytes": lambda client, box: client.write_stdin(box, "proc-1", b"\x00\xff", eof=False),
    "stdin_eof": lambda client, box: client.write_stdin(box, "proc-1", eof=True),
    "signal": lambda client, box: client.signal(box, "proc-1", "TERM"),
    "signal_sig": lambda client, box: client.signal(box, "proc-1", "SIGINT"),
    "kill": lambda client, box: client.kill(box, "proc-1"),
}

# Our case -> the vendor's where it has another name: 1.14.0 streams each start.
NAMES = {"start_streaming": "start", "start_streaming_options": "start_options"}
# The one-shot forms, which 1.14.0 has no more, as 1.3.0 has them: still in Node's 0.92.6.
OLDER = ("start", "start_options", "exec", "exec_options")


@dataclass(frozen=True)
class Difference:
    """Parts of a request that are not alike, and why."""

    vendor: dict[str, Any]
    ours: dict[str, Any]
    why: str


DIFFERENCES = {
    "start_seconds": Difference(
        {"body": {"command": "true", "timeout_sec": 5}},
        {"body": {"command": "true", "timeoutMs": 5000}},
        "we have one option for a time limit; the receiver takes both",
    ),
    "wait_default": Difference(
        {"body": {"timeoutMs": None, "timeout_sec": None}},
        {"body": {"timeoutMs": 30000, "timeout_sec": None}},
        "the receiver's default, said aloud: how long we read has to fit it",
    ),
    "stream_from_1": Difference(
        {"query": (("from_seq", "1"),)},
        {"query": ()},
        "left out means from 1, and the first stream has no number",
    ),
    "stdin_text": Difference(
        {"body": {"data": "hello\n", "encoding": "utf8", "eof": None}},
        {"body": {"data": "hello\n", "encoding": "utf8", "eof": False}},
        "a boolean is a boolean; without one, the input stays open as well",
    ),
    "signal_sig": Difference(
        {"body": {"signal": "SIGINT"}}, {"body": {"signal": "INT"}}, "one spelling, checked before it is sent"
    ),
    "list_sandboxes_all": Difference(
        {"query": (("limit", "10"), ("page", "1"))},
        {"query": ()},
        "the service's own defaults are left to it",
    ),
}
# Beside these, each with a test below: `User-Agent` names us; 1.14.0's `exec` is a streaming start, read to
# its end; its `kill` waits for the end in a second request, which ours leaves to the caller.


async def _entered(answer: Any) -> None:
    """Await an operation, or enter and leave its context, whichever client's it is."""
    if hasattr(answer, "__aenter__"):
        async with answer:
            pass
    elif hasattr(answer, "__enter__"):
        with answer:
            pass
    elif inspect.isawaitable(answer):
        await answer


@pytest.fixture(scope="module")
def record() -> Iterator[Callable[[Any], dict[str, list[Request]]]]:
    """Return what a speaker puts on the wire, by `box/case`; each speaks once."""
    recorders: dict[Any, Recorder] = {}

    def vendor(recorder: Recorder, version: str) -> None:
        cases = OLDER if version == "1.3.0" else {NAMES.get(case, case) for case in OURS}
        names = [f"{box}/{case}" for box in BOXES for case in sorted(cases)]
        env = {"SBX_URL": recorder.url, "SBX_KEY": KEY}
        Program([*python_command(version, "speak_python.py"), *names], env).said()

    async def ours(recorder: Recorder, twin: Any) -> None:
        client = twin(KEY, recorder.url, policy=NO_RETRIES)
        for box in BOXES:
            await _entered(client.get_process(box, "proc-1"))  # so that the token is there
        for box in BOXES:
            for case, speak in OURS.items():
                recorder.mark(f"{box}/{case}")
                await _entered(speak(client, box))
        await _entered(client.close())

    def record(speaker: Any) -> dict[str, list[Request]]:
        if speaker not in recorders:
            recorders[speaker] = Recorder()
            if isinstance(speaker, str):
                vendor(recorders[speaker], speaker)
            else:
                asyncio.run(ours(recorders[speaker], speaker))
        return recorders[speaker].cases

    yield record
    for recorder in recorders.values():
        recorder.stop()


@pytest.fixture(params=[SandboxClient, AsyncSandboxClient], ids=["sync", "async"])
def twin(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("case", OURS)
def test_a_request_is_the_vendors(record: Callable[..., Any], twin: Any, box: str, case: str) -> None:
    vendor = record("1.3.0" if case in OLDER else "1.14.0")[f"{box}/{NAMES.get(case, case)}"]
    ours = record(twin)[f"{box}/{case}"]
    assert len(ours) == 1
    difference = DIFFERENCES.get(case, Difference({}, {}, "they are to be alike"))
    for name, value in difference.vendor.items():
        assert getattr(vendor[0], name) == value, difference.why
    assert ours[0] == replace(vendor[0], **difference.ours), difference.why


@pytest.mark.parametrize("box", BOXES)
def test_a_process_is_spoken_to_with_the_token_and_a_sandbox_with_the_key(
    record: Callable[..., Any], twin: Any, box: str
) -> None:
    process, sandbox = (record(twin)[f"{box}/{case}"][0] for case in ("get_process", "get_sandbox"))
    assert (process.key, process.bearer) == (None, f"Bearer token-of-{box}")
    assert (sandbox.key, sandbox.bearer) == (KEY, None)


@pytest.mark.parametrize(
    ("box", "path"),
    [(PATH_BOX, f"/sandbox/{PATH_BOX}/processes/proc-1"), (HOST_BOX, "/sandbox/processes/proc-1")],
)
def test_a_runtime_path_follows_the_shape_of_the_base_url(
    record: Callable[..., Any], twin: Any, box: str, path: str
) -> None:
    assert record(twin)[f"{box}/get_process"][0].path == path


def test_the_user_agent_names_us(record: Callable[..., Any], twin: Any) -> None:
    ours = {request.agent for requests in record(twin).values() for request in requests}
    assert len(ours) == 1
    assert ours.pop().startswith("airflow-provider-sbx/")
    assert record("1.14.0")[f"{PATH_BOX}/get_process"][0].agent.startswith("python-httpx/")


def test_the_newest_vendor_client_runs_a_command_by_a_streaming_start(record: Callable[..., Any]) -> None:
    # Ours is the one-shot form, which needs one request and no reader; what follows output streams the start.
    vendor = record("1.14.0")
    assert vendor[f"{PATH_BOX}/exec_options"] == vendor[f"{PATH_BOX}/start_options"]
    assert vendor[f"{PATH_BOX}/exec_options"][0].wants_stream


def test_a_kill_of_the_vendors_client_also_waits(record: Callable[..., Any], twin: Any) -> None:
    kill, wait = record("1.14.0")[f"{PATH_BOX}/kill"]
    assert [kill] == record(twin)[f"{PATH_BOX}/kill"]
    assert (wait.path.endswith("/proc-1/wait"), wait.body) == (True, {"timeoutMs": 5000, "timeout_sec": None})
