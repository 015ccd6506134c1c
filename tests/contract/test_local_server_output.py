"""The embedded server's output: numbered events, replay, bounds, heartbeats, every byte."""

from __future__ import annotations

import base64
import socket
import time
from typing import Any
from urllib.parse import urlsplit

import pytest

MIB = 1024 * 1024
TIGHT = ("--replay-bytes", "65536", "--heartbeat-seconds", "0.05", "--isolation", "none")


def outputs(events: list[tuple[str, Any]], stream: str = "stdout") -> bytes:
    return b"".join(
        base64.b64decode(data["data"]) if data.get("encoding") == "base64" else data["data"].encode()
        for name, data in events
        if name == "output" and data["stream"] == stream
    )


def test_events_are_numbered_from_1_without_gaps_and_end_with_done(box: Any) -> None:
    process = box.start("for i in 1 2 3; do echo out$i; echo err$i 1>&2; done; exit 2")
    events = box.events(process)
    numbers = [data["seq"] for name, data in events if name == "output"]
    assert numbers == list(range(1, len(numbers) + 1))
    assert outputs(events) == b"out1\nout2\nout3\n"
    assert outputs(events, "stderr") == b"err1\nerr2\nerr3\n"
    name, done = events[-1]
    assert name == "done"
    assert (done["status"], done["exit_code"], done["last_seq"]) == ("exited", 2, numbers[-1])
    assert done["output_truncated"] is False
    assert abs(next(iter(events))[1]["timestamp"] - time.time() * 1000) < 60_000


def test_a_streaming_start_begins_with_the_summary(box: Any) -> None:
    # Held by its input: a shell that only echoes may be over before the summary is written.
    with box.starting("read line; echo hi") as events:
        name, started = next(events)
        box.stdin(started["id"], data="go\n")
        rest = list(events)
    assert (name, started["status"], started["command"]) == ("started", "running", "read line; echo hi")
    assert outputs(rest) == b"hi\n"
    assert rest[-1][1]["id"] == started["id"]


def test_output_comes_while_the_process_runs(box: Any) -> None:
    with box.starting("echo prompt; read line; echo got $line") as events:
        process = next(events)[1]["id"]
        assert next(events)[1]["data"] == "prompt\n"
        box.stdin(process, data="it\n")
        assert next(events)[1]["data"] == "got it\n"


def test_a_stream_begins_where_it_is_told_to(box: Any) -> None:
    with box.starting("for i in 1 2 3; do echo $i; read x; done") as events:
        process = next(events)[1]["id"]
        for _ in range(3):
            next(events)
            box.stdin(process, data="\n")
        list(events)
    assert [d["seq"] for n, d in box.events(process, from_seq=3) if n == "output"] == [3]
    assert [d["seq"] for n, d in box.events(process, from_seq=0) if n == "output"] == [1, 2, 3]
    assert [n for n, _ in box.events(process, from_seq=99)] == ["done"]


@pytest.mark.parametrize("number", ["-1", "x", "1.5"])
def test_a_number_that_is_none_is_refused(box: Any, number: str) -> None:
    answer = box.runtime.get(f"/processes/{box.start('true')}/stream", params={"from_seq": number})
    assert answer.status_code == 400


def test_a_client_that_leaves_takes_nothing_with_it(box: Any) -> None:
    with box.starting("echo one; read x; echo two") as events:
        process = next(events)[1]["id"]
        next(events)
    box.stdin(process, data="\n")
    assert box.wait(process)["stdout"] == "one\ntwo\n"
    assert outputs(box.events(process)) == b"one\ntwo\n"


def test_a_character_written_in_two_parts_arrives(box: Any) -> None:
    with box.starting(
        r"printf '\303'; sleep 0.02; printf '\251\n'; printf 'x\342\202'; sleep 0.02; printf '\254'"
    ) as e:
        events = list(e)[1:]
    # That the parts come together is for `OutputPipe`'s own tests: a rest that is late comes alone.
    assert outputs(events).decode() == "é\nx€"


def test_bytes_that_are_no_text_come_as_they_are(box: Any) -> None:
    with box.starting(r"printf '\377\376\000ok'; printf '\303' 1>&2") as started:
        events = list(started)[1:]
    assert outputs(events) == b"\xff\xfe\x00ok"
    assert outputs(events, "stderr") == b"\xc3"
    assert {data.get("encoding") for name, data in events if name == "output"} == {"base64"}


def test_half_a_character_is_not_held_for_ever(box: Any) -> None:
    with box.starting(r"printf '\303'; read x") as events:
        next(events)
        assert next(events)[1]["encoding"] == "base64"


def test_characters_that_end_a_line_for_some_do_not_break_an_event(box: Any) -> None:
    process = box.start(r"printf 'a\342\200\250b\302\205c\r\nd'")
    box.wait(process)
    raw = box.runtime.get(f"/processes/{process}/stream").content
    assert raw.isascii()
    assert outputs(box.events(process)).decode() == "a\u2028b\u0085c\r\nd"


def test_a_quiet_stream_carries_heartbeats(local_server: Any, box_of: Any) -> None:
    box = box_of(local_server(*TIGHT))
    process = box.start("read x; echo done")
    with box.following(process) as events:
        assert [next(events) for _ in range(3)] == [("comment", "connected"), *[("comment", "heartbeat")] * 2]
        box.stdin(process, data="\n")
        rest = [event for event in events if event[0] != "comment"]
    assert outputs(rest) == b"done\n"


def test_only_the_end_of_much_output_is_retained_and_that_is_said(local_server: Any, box_of: Any) -> None:
    box = box_of(local_server(*TIGHT))
    result = box.exec("seq 1 100000")
    assert result["output_truncated"] is True
    assert result["stdout"].endswith("99999\n100000\n")
    assert 0 < len(result["stdout"]) <= 2 * 65536
    process = result["id"]
    answer = box.runtime.get(f"/processes/{process}/stream")
    assert (answer.status_code, answer.json()["code"]) == (410, "replay_window_expired")
    assert answer.json()["message"] == "Replay window expired"
    last = box.events(process, from_seq=result["last_seq"])
    assert [data["seq"] for name, data in last if name == "output"] == [result["last_seq"]]
    assert last[-1][1]["output_truncated"] is True


def test_a_stream_from_the_start_has_everything_however_slow_its_reader(
    local_server: Any, box_of: Any
) -> None:
    server = local_server(*TIGHT)
    box = box_of(server)
    size = 24 * MIB
    received, seq = 0, 0
    with box.starting(f"head -c {size} /dev/zero | tr '\\0' x") as events:
        process = next(events)[1]["id"]
        time.sleep(0.3)  # it could have written all of it by now, had it not been held
        assert box.get(process)["status"] == "running"
        for name, data in events:
            if name == "comment":
                continue
            if name == "output":
                assert data["seq"] == seq + 1
                seq, received = data["seq"], received + len(data["data"])
            else:
                assert (name, data["output_truncated"], data["last_seq"]) == ("done", False, seq)
    assert received == size
    assert _memory_mib(server.process.pid) < 150
    assert box.wait(process)["output_truncated"] is True


def test_a_reader_that_goes_sets_the_process_free(local_server: Any, box_of: Any) -> None:
    box = box_of(local_server(*TIGHT))
    address = urlsplit(box.detail["runtime"]["baseUrl"])
    process = box.start("read x; head -c 20000000 /dev/zero | tr '\\0' x; echo end")
    with socket.create_connection((address.hostname, address.port)) as stalled:
        stalled.sendall(
            f"GET {address.path}/processes/{process}/stream HTTP/1.1\r\nHost: {address.netloc}\r\n"
            f"Authorization: Bearer {box.detail['token']}\r\n\r\n".encode()
        )
        assert stalled.recv(100).startswith(b"HTTP/1.1 200")
        box.stdin(process, data="\n")
        assert box.runtime.post(f"/processes/{process}/wait", json={"timeoutMs": 300}).status_code == 408
    result = box.wait(process, timeoutMs=20_000)
    assert (result["status"], result["stdout"][-4:]) == ("exited", "end\n")


def test_a_plain_receiver_answers_json_to_a_streaming_start(local_server: Any, box_of: Any) -> None:
    box = box_of(local_server("--plain-starts", "--max-processes", "1", "--isolation", "none"))
    answer = box.runtime.post(
        "/processes", json={"command": "echo hi"}, headers={"accept": "text/event-stream"}
    )
    assert answer.headers["content-type"] == "application/json"
    assert box.wait(answer.json()["process"]["id"])["stdout"] == "hi\n"


def _memory_mib(pid: int) -> int:
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) // 1024 for line in file if line.startswith("VmRSS:"))
