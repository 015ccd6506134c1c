"""The embedded server's manners: who may call, what it refuses, and that it leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import Any

import httpx
import pytest

SECRET_ENV = {"SERVER_ONLY": "server-only"}


def test_every_answer_carries_a_request_id_of_its_own(box: Any) -> None:
    answers = [box.runtime.get("/processes"), box.runtime.get("/processes/x"), box.control.get("/nothing")]
    ids = {answer.headers["x-request-id"] for answer in answers}
    assert len(ids) == 3


@pytest.mark.parametrize("key", [None, "", "wrong", "contract-key2", "\x80"])
def test_the_control_plane_opens_to_its_key_only(sbx_local: Any, key: str | None) -> None:
    headers = {} if key is None else {"x-api-key": key.encode("latin-1")}
    for path in ("/api/sandboxes", "/api/sandbox/none", "/api/nothing/here"):
        answer = httpx.get(sbx_local.url + path, headers=headers, timeout=30)
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")


@pytest.mark.parametrize(
    "value", [None, "", "Bearer", "Bearer x", "Bearer sbxt.1.2", "Basic sbxt.99999999999999.x"]
)
def test_the_runtime_plane_opens_to_a_token_only(box: Any, value: str | None) -> None:
    headers = {} if value is None else {"authorization": value}
    for path in ("/processes", "/nothing", ""):
        answer = httpx.get(box.detail["runtime"]["baseUrl"] + path, headers=headers, timeout=30)
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "10.0.0.1"]
)
def test_a_host_that_may_be_anybodys_is_not_served(box: Any, host: str) -> None:
    answer = box.control.get("/sandboxes", headers={"host": host})
    assert (answer.status_code, answer.json()["code"]) == (421, "host_not_allowed")


@pytest.mark.parametrize("host", ["localhost", "localhost:99", "127.0.0.1", "[::1]:80", "LOCALHOST:1"])
def test_the_names_of_this_machine_are_served(box: Any, host: str) -> None:
    assert box.control.get("/sandboxes", headers={"host": host}).status_code == 200


def test_a_body_that_is_too_long_is_refused(local_server: Any, box_of: Any) -> None:
    box = box_of(local_server("--max-body-bytes", "1000", "--isolation", "none"))
    body = b'{"command": "' + b"x" * 2000 + b'"}'

    def in_pieces() -> Any:
        yield from (body[:1500], body[1500:])

    for content in (body, in_pieces()):
        answer = box.runtime.post("/exec", content=content)
        assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[1]",
        b"null",
        b'"text"',
        b"\xff\xfe",
        b'{"command": "\\ud800"}',
        b'{"command": "true", "env": {"A": "\\udfff"}}',
        b'{"command": "true", "cwd": "\\ud800"}',
        b'{"command": "true", "runAs": "\\ud800"}',
        b'{"command": "true", "timeoutMs": NaN}',
        b'{"command": "true", "timeoutMs": Infinity}',
        b'{"command": "true", "timeoutMs": 1' + b"0" * 5000 + b"}",
        b'{"command": "true", "timeout_sec": {}}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"command": {"a": 1}}',
    ],
)
@pytest.mark.parametrize(
    "path", ["/exec", "/processes", "/processes/{id}/wait", "/processes/{id}/stdin", "/processes/{id}/signal"]
)
def test_no_body_makes_the_server_fail(box: Any, path: str, body: bytes) -> None:
    process = box.start("true")
    box.wait(process)
    answer = box.runtime.post(path.format(id=process), content=body)
    assert answer.status_code in (200, 400, 409)
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/nothing", 404),
        ("DELETE", "/api/sandboxes", 405),
        ("GET", "/nothing", 404),
        ("POST", "/healthz", 405),
        ("GET", "/api/sandboxes/", 404),
        ("GET", "/api/sandbox/%2e%2e", 404),
        ("GET", "/sessions/%00", 404),
        ("GET", "/%ff%fe", 404),
    ],
)
def test_an_unknown_path_is_answered_in_json(
    box: Any, sbx_local: Any, method: str, path: str, status: int
) -> None:
    answer = httpx.request(method, sbx_local.url + path, headers={"x-api-key": sbx_local.api_key}, timeout=30)
    assert answer.status_code == status
    assert set(answer.json()) == {"message", "code"}


def test_a_server_without_a_key_does_not_start() -> None:
    done = _serve("--host", "127.0.0.1", key=None)
    assert (done.returncode, done.stdout) == (2, "")
    assert "API key" in done.stderr


def test_the_key_and_the_environment_of_the_server_stay_with_it(local_server: Any, box_of: Any) -> None:
    server = local_server(env=SECRET_ENV)
    box = box_of(server)
    seen = box.exec("env; cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n'; true")
    if server.url and httpx.get(f"{server.url}/healthz", timeout=30).json()["isolation"] != "none":
        assert server.api_key not in seen["stdout"]
        assert "server-only" not in seen["stdout"]
    own = box.exec("env")["stdout"]
    assert server.api_key not in own
    assert "SERVER_ONLY" not in own
    assert not any(server.api_key in line or box.detail["token"] in line for line in server.log)


@pytest.mark.parametrize(
    ("isolation", "how"),
    [
        ("auto", signal.SIGTERM),
        ("auto", signal.SIGKILL),
        ("none", signal.SIGINT),
        ("none", signal.SIGKILL),
    ],
)
def test_however_the_server_ends_it_leaves_no_process(
    local_server: Any, box_of: Any, isolation: str, how: signal.Signals
) -> None:
    server = local_server("--isolation", isolation, fresh=True)
    box = box_of(server)
    seconds = f"86400.{os.getpid()}{how.value}"
    command = f"trap '' TERM HUP INT; setsid env -i sleep {seconds} & echo ready; sleep {seconds}"
    with box.starting(command) as events:
        next(events)
        assert next(events)[1]["data"] == "ready\n"
        _until(lambda: len(_running(seconds)) >= 2)
        server.process.send_signal(how)
        if how is not signal.SIGKILL:
            assert list(events)[-1][0] == "done"
            assert server.process.wait(15) == 0
    _until(lambda: not _running(seconds))
    if how is not signal.SIGKILL:
        assert not any("Traceback" in line for line in server.log)


def _running(seconds: str) -> list[str]:
    """Return the processes whose last argument this is."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/cmdline", "rb") as file:
                    if file.read().endswith(f"sleep\0{seconds}\0".encode()):
                        found.append(name)
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found


def _until(condition: Any) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_port_that_is_taken_is_an_error_of_one_line(sbx_local: Any) -> None:
    done = _serve("--isolation", "none", "--port", sbx_local.url.rpartition(":")[2], key="k")
    assert done.returncode not in (0, 2)
    assert "address already in use" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def _serve(*options: str, key: str | None) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if name != "SBX_LOCAL_API_KEY"}
    return subprocess.run(
        [sys.executable, "-m", "airflow_provider_sbx.local.cli", "serve", *options],
        env=env if key is None else env | {"SBX_LOCAL_API_KEY": key},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
