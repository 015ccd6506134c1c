"""The embedded server against hostile requests: each is answered, in its own form, and none makes it fail."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote_from_bytes, urlsplit

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from airflow_provider_sbx.local import control, pages, runtime

ROUTES = (*control.ROUTES, *runtime.ROUTES, *pages.ROUTES)
METHODS_BY_PATH = {
    path: sorted({m for route in ROUTES if route.path == path for m in route.methods or ()})
    for path in sorted({route.path for route in ROUTES})
}
UNSUPPORTED = {
    r.path for r in ROUTES if r.endpoint in (control.refuse_unsupported, runtime.refuse_unsupported)
}
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "BREW"]


def bounded(examples: int) -> settings:
    """Return settings for so many requests, the same at each run: a failure is one for everybody."""
    return settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


@dataclass(frozen=True)
class Answer:
    """What came back; status 0 where the connection was closed without an answer."""

    status: int
    headers: dict[str, str]
    body: bytes


class Target:
    """A server with a running sandbox and one that was stopped, a process that runs and one that ended."""

    def __init__(self, server: Any, box: Any, stopped: Any) -> None:
        self.server = server
        self.host = urlsplit(server.url).netloc
        self.box = box
        self.stopped = stopped
        self.ended = box.start("echo out; echo err >&2")
        box.wait(self.ended, timeoutMs=20_000)  # by itself, this server's wait is short
        self.running = box.start("exec cat")

    def path(self, template: str, ids: dict[str, bytes]) -> bytes:
        path = template.replace("{rest:path}", "{rest}").encode()
        for name, value in ids.items():
            path = path.replace(b"{%s}" % name.encode(), value)
        return path

    def send(self, data: bytes, method: str = "GET", *, ends: bool = False) -> Answer:
        """Send bytes over a connection of their own, and read what the server answers.

        :param ends: whether the client sends its end of the connection, too.
        """
        host, _, port = self.host.partition(":")
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            try:
                connection.sendall(data)
                if ends:
                    connection.shutdown(socket.SHUT_WR)
            except (BrokenPipeError, ConnectionResetError):
                pass  # it has answered before it has read everything
            answer = http.client.HTTPResponse(connection, method=method)
            try:
                answer.begin()
                body = answer.read()
            except (http.client.RemoteDisconnected, ConnectionResetError):
                return Answer(0, {}, b"")
            return Answer(answer.status, {n.lower(): v for n, v in answer.getheaders()}, body)


@pytest.fixture(scope="module")
def target(local_server: Any, box_of: Any) -> Iterator[Target]:
    options = ("--base-url-style", "host", "--wait-seconds", "0.05", "--max-body-bytes", "100000")
    server = local_server(*options, fresh=True)

    def made() -> Any:
        # By the server's address: not every machine resolves names below localhost.
        key = {"x-api-key": server.api_key}
        spec = {"imageName": "python"}
        detail = httpx.post(f"{server.url}/api/sandbox", json=spec, headers=key, timeout=30).json()
        detail["runtime"]["baseUrl"] = f"{server.url}/sandbox/{detail['id']}"
        return box_of(server, detail=detail)

    box, stopped = made(), made()
    stopped.control.put(f"/sandbox/{stopped.id}/stop").raise_for_status()
    yield Target(server, box, stopped)
    assert server.stop() == 0
    log = "".join(server.log)
    assert "Traceback" not in log, log[-4000:]


def check(answer: Answer, method: str = "GET") -> None:
    """Every answer has an id; each that is an error is JSON with a message; no error is the server's."""
    assert answer.status < 500 or answer.status in (501, 503), answer
    assert answer.headers.get("x-request-id", "").startswith("req-"), answer
    kind = answer.headers["content-type"].partition(";")[0]
    if answer.status < 400 and kind in ("text/event-stream", "text/html"):
        return
    assert kind == "application/json", answer
    if method == "HEAD":
        return
    body = json.loads(answer.body)
    assert isinstance(body, dict)
    if answer.status >= 400:
        assert isinstance(body["message"], str), answer
        assert body["message"]
        assert isinstance(body["code"], str)


# --- what is sent ------------------------------------------------------------------------------

TEXTS = [
    "",
    " ",
    "\0",
    "\ud800",
    "a\udfffb",
    "\u2028",
    "é",
    "💥",
    "../..",
    "/",
    "x" * 5000,
    "%s{}",
    "-1",
    "1e9",
]
NUMBERS = [-1, 0, 1, 2**31, 2**53, 2**53 + 1, 2**64, 10**30, 10**400, 0.5, -0.5, 1e308]
NUMBERS += [float("nan"), float("inf")]
OTHERS = [None, True, [], {}, [None], ["\ud800"], {"\ud800": "\0"}, {"A": 1}, {"A": {"name": "\0"}}, [[[{}]]]]
ODD_TEXT, ODD_NUMBER = st.sampled_from(TEXTS), st.sampled_from(NUMBERS)
KNOWN = st.sampled_from(["ubuntu", "root", "utf8", "base64", "TERM", "SIGWINCH", "latest", "python", "node"])
SCALARS = st.one_of(st.none(), st.booleans(), ODD_NUMBER, ODD_TEXT, KNOWN, st.text(max_size=20))
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ODD_TEXT | KNOWN, inner, max_size=3),
    max_leaves=6,
)
# Nothing that a machine without isolation should not run.
COMMANDS = st.sampled_from(
    ["true", "exit 7", "echo hi; echo oh >&2", "", " ", "\0", "true \ud800", ": " * 9000]
)
PROCESS = [
    "cwd",
    "env",
    "timeoutMs",
    "timeout_sec",
    "runAs",
    "secrets",
    "vault",
    "onePassword",
    "args",
    "run_as",
]
SANDBOX = [
    *("imageName", "imageId", "snapshotName", "snapshotId", "region", "timeoutMinutes", "vcpus", "memMiB"),
    *("exposedPorts", "mounts", "allowInternetAccess", "allowOut", "secrets", "vault", "cpu", "__class__"),
]
MEMBERS = {
    "wait": ["timeoutMs", "timeout_sec"],
    "stdin": ["data", "encoding", "eof"],
    "signal": ["signal"],
    "sandbox": SANDBOX,
}


def json_bodies(endpoint: str) -> st.SearchStrategy[bytes]:
    """Return bodies of known members with odd values, and a few that are no objects."""
    members = st.dictionaries(st.sampled_from(MEMBERS.get(endpoint, PROCESS)), VALUES, max_size=2)
    if endpoint in ("exec", "processes"):
        commands = st.one_of(
            COMMANDS, COMMANDS, COMMANDS, VALUES.filter(lambda value: not isinstance(value, str))
        )
        objects = st.builds(lambda command, rest: {"command": command, **rest}, commands, members)
    elif endpoint == "sandbox":
        objects = members.map(lambda rest: {"imageName": "python", **rest})
    else:
        objects = members
    others = VALUES.filter(lambda value: not isinstance(value, dict))
    return st.one_of(objects, objects, objects, objects, others).map(lambda value: json.dumps(value).encode())


BROKEN_BODIES = st.one_of(
    st.sampled_from([b"", b"[" * 50_000, b'{"a":' * 15_000, b'{"command": "\xff\xfe"}', b"{}" * 60_000]),
    st.sampled_from([b"1" * 9000, b'{"timeoutMs": 1' + b"0" * 5000 + b"}", b'{"a": 1, "a": {}}', b"\0" * 10]),
    st.binary(max_size=40),
)
SEGMENTS = st.one_of(
    st.sampled_from([b"%00", b"%ff", b"%2f", b"..", b"%2e%2e", b"a" * 3000, b"%", b"%zz", b";", b"*", b""]),
    st.binary(max_size=8).map(lambda data: quote_from_bytes(data).encode()),
)
QUERY_NAMES = [
    "status",
    "limit",
    "cursor",
    "created_after",
    "created_before",
    "from_seq",
    "page",
    "start",
    "end",
]
QUERY_VALUES = st.one_of(
    st.sampled_from(
        [b"", b"-1", b"0", b"1", b"9" * 17, b"9" * 400, b"1e3", b"%d9%a3", b"running,", b"%ff", b"%00"]
    ),
    st.binary(max_size=6).map(lambda data: quote_from_bytes(data).encode()),
)
QUERIES = st.lists(
    st.builds(lambda name, value: name.encode() + b"=" + value, st.sampled_from(QUERY_NAMES), QUERY_VALUES),
    max_size=3,
).map(b"&".join)
HEADER_VALUES = st.one_of(
    st.sampled_from(
        [b"", b"text/event-stream", b"application/xml", b"multipart/form-data", b"gzip", b"\xe9"]
    ),
    st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=30).map(str.encode),
    st.just(b"x" * 20_000),
)
HEADERS = st.dictionaries(
    st.sampled_from([b"accept", b"content-type", b"content-encoding", b"cookie", b"range", b"x-odd"]),
    HEADER_VALUES,
    max_size=2,
)


@st.composite
def requests(draw: st.DrawFn, target: Target, template: str) -> tuple[str, bytes, bool]:
    """Draw a request to an endpoint; its method, its bytes, and whether it breaks off."""
    method = draw(st.sampled_from(METHODS_BY_PATH[template] * 5 + METHODS))
    # `wait` and `stream` of what does not end would hold the test; `stop` would end it.
    is_holding = template.endswith(("/wait", "/stream"))
    processes = [target.ended] if is_holding else [target.ended, target.running]
    sandboxes = [target.stopped] if template.endswith("/stop") else [target.box] * 9 + [target.stopped]
    box = draw(st.sampled_from(sandboxes))
    ids = {
        "sandbox_id": draw(st.sampled_from([box.id.encode()] * 9 + [draw(SEGMENTS)])),
        "process_id": draw(st.sampled_from([i.encode() for i in processes] * 5 + [draw(SEGMENTS)])),
        "rest": draw(SEGMENTS),
    }
    path = target.path(template, ids) + draw(st.sampled_from([b""] * 10 + [b"/", b"//x"]))
    if query := draw(QUERIES):
        path += b"?" + query
    body = draw(st.one_of(*[json_bodies(template.rpartition("/")[2])] * 4, BROKEN_BODIES))
    body = draw(
        st.sampled_from([body] * 6 + [body[: len(body) // 2], body.decode("latin-1").encode("utf-16")])
    )
    framing = draw(st.sampled_from(["length"] * 6 + ["chunked", "cut"]))
    headers = {
        b"host": target.host.encode(),
        b"x-api-key": target.server.api_key.encode(),
        b"authorization": b"Bearer " + box.detail["token"].encode(),
        b"connection": b"close",
        **draw(HEADERS),
    }
    if framing == "chunked":
        headers[b"transfer-encoding"] = b"chunked"
        body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"
    else:
        headers[b"content-length"] = str(len(body) + (10 if framing == "cut" else 0)).encode()
    head = b"".join(name + b": " + value + b"\r\n" for name, value in headers.items())
    return method, method.encode() + b" " + path + b" HTTP/1.1\r\n" + head + b"\r\n" + body, framing == "cut"


@pytest.mark.parametrize("template", METHODS_BY_PATH)
def test_no_request_to_an_endpoint_makes_the_server_fail(target: Target, template: str) -> None:
    @bounded(5 if template in UNSUPPORTED else 20)
    @given(requests(target, template))
    def fuzz(request: tuple[str, bytes, bool]) -> None:
        method, data, is_cut = request
        answer = target.send(data, method, ends=is_cut)
        if answer.status or not is_cut:
            check(answer, method)

    fuzz()
    assert_answers(target)


@pytest.mark.parametrize(
    ("path", "members", "command"),
    [
        ("/sandbox/{box}/exec", PROCESS, {"command": "true"}),
        ("/sandbox/{box}/exec", ["command"], {}),
        ("/sandbox/{box}/processes", PROCESS, {"command": "true"}),
        ("/api/sandbox/{box}/processes", PROCESS, {"command": "true"}),
        ("/sandbox/{box}/processes/{ended}/wait", MEMBERS["wait"], {}),
        ("/sandbox/{box}/processes/{running}/stdin", MEMBERS["stdin"], {"data": "x"}),
        ("/sandbox/{box}/processes/{running}/signal", MEMBERS["signal"], {}),
        ("/api/sandbox", SANDBOX, {"imageName": "none"}),
        ("/api/sandbox", ["timeoutMinutes"], {"imageName": "python"}),
    ],
)
def test_no_value_of_a_member_makes_the_server_fail(
    target: Target, path: str, members: list[str], command: dict[str, str]
) -> None:
    path = path.format(box=target.box.id, ended=target.ended, running=target.running)
    key = target.server.api_key if path.startswith("/api") else "unused"
    head = (
        f"POST {path} HTTP/1.1\r\nhost: {target.host}\r\nconnection: close\r\nx-api-key: {key}\r\n"
        f"authorization: Bearer {target.box.detail['token']}\r\n"
    )
    for member in members:
        for value in [*TEXTS, *NUMBERS, *OTHERS]:
            if member == "command" and isinstance(value, str) and not value.isspace():
                continue  # a machine without isolation need not run what may mean anything
            body = json.dumps({**command, member: value})
            answer = target.send(f"{head}content-length: {len(body)}\r\n\r\n{body}".encode())
            check(answer)
    assert_answers(target)


HOSTS = [
    *("", "[", "[::1", "[::1]x", "[127.0.0.1]", "[]:1", "[x.localhost]", "localhost:99999", "localhost:x"),
    *(
        "localhost:",
        "localhost:1/a",
        "a b.localhost",
        "..localhost",
        ".localhost",
        "%00.localhost",
        "a@localhost",
    ),
    *("\xb2", "localhost:\xb2", "LOCALHOST", "localhost:80:80", "x" * 30_000),
]
TOKENS = [
    *("", "Bearer", "Bearer sbxt.1.\xe9", "Bearer sbxt.\xb2.x", "Bearer ....", "Basic \xff", "x" * 30_000),
    *(f"Bearer sbxt.{'9' * 19}.x", f"Bearer sbxt.{'9' * 20}.x", "Bearer sbxt.-1.x", "\xff"),
]


@pytest.mark.parametrize(
    "path", ["/api/sandbox/{}", "/api/nothing", "/sandbox/{}/processes", "/healthz", "/no"]
)
@pytest.mark.parametrize(
    ("name", "values"),
    [("host", HOSTS), ("authorization", TOKENS), ("x-api-key", TOKENS)],
    ids=lambda v: str(v)[:13],
)
def test_no_host_key_or_token_makes_the_server_fail(
    target: Target, name: str, values: list[str], path: str
) -> None:
    headers = {
        "host": target.host,
        "x-api-key": target.server.api_key,
        "authorization": f"Bearer {target.box.detail['token']}",
        "connection": "close",
    }
    for value in values:
        for given_headers in ([*{**headers, name: value}.items()], [*headers.items(), (name, value)]):
            head = "".join(f"{n}: {v}\r\n" for n, v in given_headers)
            request = f"GET {path.format(target.box.id)} HTTP/1.1\r\n{head}\r\n"
            check(target.send(request.encode("latin-1")))


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n\r\n\r\nx\r\n\r\n",
        b"\0\xff\xfe\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: localhost\r\nbad header\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: localhost\r\nx: a\0b\r\n\r\n",
        b"GET http://localhost/healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
        b"CONNECT localhost:1 HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: localhost\r\nx: " + b"x" * 200_000 + b"\r\n\r\n",
        b"POST /api/sandbox HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n",
        b"POST /api/sandbox HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nx",
        b"POST /api/sandbox HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: gzip\r\n\r\nx",
        b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /healthz HTTP/1.0\r\nhost: localhost\r\n\r\n",
    ],
    ids=lambda data: ascii(data[:50]),
)
def test_what_is_hardly_http_is_answered_too(target: Target, data: bytes) -> None:
    # The connection's end for the server comes after the answer: `HTTPResponse` reads a declared length.
    check(target.send(data))
    assert_answers(target)


def test_garbage_within_a_body_ends_the_connection_alone(target: Target) -> None:
    data = (
        b"POST /api/sandbox HTTP/1.1\r\nhost: localhost\r\nx-api-key: %s\r\n"
        b"transfer-encoding: chunked\r\n\r\n5\r\n{    \r\nnot a length\r\n"
    ) % target.server.api_key.encode()
    check(target.send(data))
    assert_answers(target)


def assert_answers(target: Target) -> None:
    """Fail where the server or its sandbox is no longer what it was."""
    assert target.box.exec("echo still here")["stdout"] == "still here\n"
