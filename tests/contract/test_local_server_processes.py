"""The embedded server's processes: every operation, every status, every refusal."""

from __future__ import annotations

import base64
import time
from typing import Any

import pytest


def test_a_command_runs_in_a_shell_with_its_directory_and_variables(box: Any) -> None:
    result = box.exec("pwd; echo $FOO; cat; exit 3", cwd="/tmp", env={"FOO": "bar"})
    assert (result["status"], result["exit_code"]) == ("exited", 3)
    assert (result["stdout"], result["stderr"]) == ("/tmp\nbar\n", "")
    assert (result["output_truncated"], result["last_seq"] >= 1) == (False, True)
    assert result["completed_at"] >= result["started_at"] > 1_600_000_000_000


def test_a_relative_directory_is_below_the_home(box: Any) -> None:
    box.exec("mkdir -p below")
    assert box.exec("pwd", cwd="below")["stdout"] == box.exec("echo $HOME/below")["stdout"]


def test_the_shell_is_bash_where_there_is_one(box: Any) -> None:
    assert box.exec("[ ! -e /bin/bash ] || echo ${BASH_VERSION:+bash}")["stdout"] in ("bash\n", "")


def test_a_command_longer_than_an_argument_may_be_runs(box: Any) -> None:
    result = box.exec("# " + "x" * 300_000 + "\necho reached")
    assert (result["stdout"], result["exit_code"]) == ("reached\n", 0)


def test_an_old_client_may_send_arguments_and_seconds(box: Any) -> None:
    assert box.exec("printf", args=["%s.", "a b", "c"], useShell=False)["stdout"] == "a b.c."
    assert box.exec("sleep 30", timeout_sec=1)["status"] == "timed_out"


def test_a_start_answers_at_once_and_shows_what_runs(box: Any) -> None:
    answer = box.runtime.post("/processes", json={"command": "sleep 30", "cwd": "/tmp"}).json()["process"]
    assert answer["status"] == "running"
    assert (answer["command"], answer["cwd"]) == ("sleep 30", "/tmp")
    assert answer["pid"] > 0
    assert answer["exit_code"] is answer["completed_at"] is None
    assert box.get(answer["id"]) == answer
    box.kill(answer["id"])


def test_a_wait_ends_with_the_process(box: Any) -> None:
    process = box.start("echo out; echo err 1>&2; exit 7")
    result = box.wait(process, timeoutMs=10_000)
    assert (result["id"], result["status"], result["exit_code"]) == (process, "exited", 7)
    assert (result["stdout"], result["stderr"]) == ("out\n", "err\n")


@pytest.mark.parametrize(
    "body", [{"timeoutMs": 50}, {"timeoutMs": 50, "timeout_sec": None}, {"timeoutMs": "50"}]
)
def test_a_wait_that_is_over_before_the_process_says_that_it_timed_out(
    box: Any, body: dict[str, Any]
) -> None:
    process = box.start("sleep 30")
    answer = box.runtime.post(f"/processes/{process}/wait", json=body)
    assert answer.status_code == 408
    assert "timed out" in answer.json()["message"]
    box.kill(process)


def test_input_arrives_as_text_and_as_bytes_until_its_end(box: Any) -> None:
    process = box.start("od -An -tx1 -v | tr -d ' \\n'")
    assert box.stdin(process, data="é\n", encoding="utf8").json() == {"success": True}
    assert (
        box.stdin(process, data=base64.b64encode(b"\x00\xff").decode(), encoding="base64").status_code == 200
    )
    assert box.stdin(process, eof=True).status_code == 200
    assert box.wait(process)["stdout"] == "c3a90a00ff"


def test_more_input_than_a_pipe_holds_arrives(box: Any) -> None:
    process = box.start("sleep 0.2; wc -c")
    assert box.stdin(process, data="x" * 3_000_000, eof=True).status_code == 200
    assert box.wait(process)["stdout"].strip() == "3000000"


def test_input_after_its_end_is_refused_but_to_end_it_again_is_not(box: Any) -> None:
    process = box.start("cat; sleep 30")
    assert box.stdin(process, eof=True).status_code == 200
    assert box.stdin(process, eof=True).status_code == 200
    assert box.stdin(process, data="late").json()["code"] == "stdin_closed"
    box.kill(process)


def test_input_to_a_process_that_has_exited_is_refused(box: Any) -> None:
    process = box.start("true")
    box.wait(process)
    answer = box.stdin(process, data="late", eof=True)
    assert (answer.status_code, answer.json()["code"]) == (409, "process_not_running")


@pytest.mark.parametrize("name", ["TERM", "SIGTERM", "sigterm", "term"])
def test_a_signal_may_be_named_with_or_without_sig(box: Any, name: str) -> None:
    process = box.start("sleep 30")
    assert box.signal(process, name).json()["process"]["id"] == process
    result = box.wait(process)
    assert (result["status"], result["exit_code"]) == ("killed", 143)


@pytest.mark.parametrize("name", ["BOGUS", "SIGSIGTERM", "9", "", None, 15, ["TERM"]])
def test_an_unknown_signal_is_refused(box: Any, name: object) -> None:
    process = box.start("sleep 30")
    assert box.signal(process, name).json()["code"] == "unknown_signal"
    assert box.get(process)["status"] == "running"
    box.kill(process)


def test_a_process_that_handles_a_signal_ends_as_it_chooses(box: Any) -> None:
    with box.starting("trap 'echo caught; exit 5' USR1; echo set; while :; do read line; done") as events:
        name, started = next(events)
        assert name == "started"
        assert next(events)[1]["data"] == "set\n"
        box.signal(started["id"], "USR1")
        box.stdin(started["id"], data="\n")  # a signal that came just before `read` is seen after it
        rest = list(events)
    assert [data["data"] for name, data in rest if name == "output"] == ["caught\n"]
    assert (rest[-1][1]["status"], rest[-1][1]["exit_code"]) == ("exited", 5)


def test_a_signal_to_a_process_that_has_exited_is_refused(box: Any) -> None:
    process = box.start("true")
    box.wait(process)
    answer = box.signal(process, "TERM")
    assert (answer.status_code, answer.json()["code"]) == (409, "process_not_running")


def test_a_process_that_dies_of_a_signal_of_its_own_is_killed(box: Any) -> None:
    result = box.exec("kill -SEGV $$")
    assert (result["status"], result["exit_code"]) == ("killed", 139)


@pytest.mark.parametrize("how", ["delete", "signal"])
def test_a_kill_takes_the_whole_tree_whatever_it_does(box: Any, how: str) -> None:
    command = (
        "trap '' TERM HUP INT; mark=/tmp/tree-$$; "
        "sh -c 'trap \"\" TERM; sleep 300' & "
        "setsid sh -c 'trap \"\" TERM; sleep 300; true' & "
        "(env -i /bin/sh -c 'setsid /bin/sh -c \"sleep 300; true\" & sleep 300' &) ; "
        "echo ready; wait; sleep 300"
    )
    alone = _count_sleeps(box)
    with box.starting(command) as events:
        process = next(events)[1]["id"]
        assert next(events)[1]["data"] == "ready\n"
        if how == "delete":
            box.kill(process)  # may answer before the end has come
            assert box.wait(process)["status"] == "killed"
        else:
            box.signal(process, "KILL")
        done = list(events)[-1]
    assert (done[0], done[1]["status"], done[1]["exit_code"]) == ("done", "killed", 137)
    assert _count_sleeps(box) == alone


def _count_sleeps(box: Any) -> str:
    # By what `ps` reads: pgrep would find the shell that runs it.
    one = 'case "$(tr "\\0" " " <$f 2>/dev/null)" in "sleep 300 ") n=$((n+1));; esac'
    text: str = box.exec(f"n=0; for f in /proc/[0-9]*/cmdline; do {one}; done; echo $n")["stdout"]
    return text


def test_a_kill_of_what_has_ended_changes_nothing(box: Any) -> None:
    process = box.start("exit 4")
    box.wait(process)
    assert (box.kill(process)["status"], box.kill(process)["exit_code"]) == ("exited", 4)


def test_a_process_that_runs_too_long_is_ended_with_what_it_wrote(box: Any) -> None:
    result = box.exec("echo begun; sleep 30", timeoutMs=3000)
    assert (result["status"], result["stdout"]) == ("timed_out", "begun\n")
    assert result["error"] == "timed out after 3000 ms"


def test_a_process_that_ignores_the_end_of_its_time_is_killed(box: Any) -> None:
    # Its time begins before its shell does, which must have come to the trap by its end.
    result = box.exec("trap '' TERM; while :; do sleep 0.05; done", timeoutMs=3000)
    assert (result["status"], result["exit_code"]) == ("timed_out", 137)


def test_a_background_process_does_not_hold_the_end_of_its_command(box: Any) -> None:
    began = time.monotonic()
    result = box.exec("sleep 300 & echo $!")
    assert result["status"] == "exited"
    assert time.monotonic() - began < 25
    # It lives on, as a daemon does.
    assert (
        box.exec(f"kill -0 {result['stdout'].strip()} && kill -9 {result['stdout'].strip()}")["exit_code"]
        == 0
    )


def test_a_background_process_may_go_on_writing_to_nobody(box: Any) -> None:
    began = time.monotonic()
    result = box.exec("while :; do echo noise; done & echo $! >$HOME/noise")
    assert (result["status"], result["exit_code"]) == ("exited", 0)
    assert time.monotonic() - began < 25
    assert box.exec("kill -9 $(cat $HOME/noise)")["exit_code"] == 0


@pytest.mark.parametrize(
    ("params", "code", "words"),
    [
        ({"command": ""}, "invalid_request", "command"),
        ({"command": "  \n"}, "invalid_request", "command"),
        ({}, "invalid_request", "command"),
        ({"command": 5}, "invalid_request", "command"),
        ({"command": "a\x00b"}, "invalid_request", "NUL"),
        ({"command": "true", "cwd": "/nowhere/at/all"}, "invalid_cwd", "/nowhere/at/all"),
        ({"command": "true", "cwd": "/etc/passwd"}, "invalid_cwd", "Not a directory"),
        ({"command": "true", "runAs": "nobody-here"}, "unknown_user", "nobody-here"),
        ({"command": "true", "timeoutMs": -1}, "invalid_request", "timeoutMs"),
        ({"command": "true", "timeoutMs": "soon"}, "invalid_request", "timeoutMs"),
        ({"command": "true", "timeout_sec": -1}, "invalid_request", "timeout_sec"),
        ({"command": "true", "env": {"A-B": "x"}}, "invalid_request", "A-B"),
        ({"command": "true", "env": {"A": "x\x00"}}, "invalid_request", "env"),
        ({"command": "true", "env": ["A=b"]}, "invalid_request", "env"),
        ({"command": "true", "secrets": {"A": "name"}}, "invalid_request", "secrets"),
    ],
)
@pytest.mark.parametrize("path", ["/exec", "/processes"])
def test_parameters_that_can_not_be_right_are_refused_before_anything_starts(
    box: Any, path: str, params: dict[str, Any], code: str, words: str
) -> None:
    before = box.runtime.get("/processes", params={"limit": 1000}).json()["data"]
    answer = box.runtime.post(path, json=params, headers={"accept": "text/event-stream"})
    assert (answer.status_code, answer.json()["code"]) == (400, code)
    assert words in answer.json()["message"]
    assert len(box.runtime.get("/processes", params={"limit": 1000}).json()["data"]) == len(before)


def test_a_value_that_is_refused_is_not_repeated_in_the_answer(box: Any) -> None:
    answer = box.runtime.post("/exec", json={"command": "true", "env": {"A": ["hush"]}})
    assert answer.status_code == 400
    assert "hush" not in answer.text


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_an_unknown_process_is_not_found(box: Any, method: str) -> None:
    answer = box.runtime.request(method, "/processes/proc-none")
    assert (answer.status_code, answer.json()["code"]) == (404, "process_not_found")


def test_a_listing_is_narrowed_by_status_and_time(sbx_local: Any, box_of: Any) -> None:
    box = box_of(sbx_local)
    ended = box.start("true")
    box.wait(ended)
    time.sleep(0.01)
    between = int(time.time() * 1000)
    time.sleep(0.01)
    running = box.start("sleep 30")

    def listed(**query: Any) -> list[str]:
        return [p["id"] for p in box.runtime.get("/processes", params=query).json()["data"]]

    assert listed() == [running, ended]
    assert listed(status="running") == [running]
    assert listed(status="exited,failed") == [ended]
    assert listed(created_after=between) == [running]
    assert listed(created_before=between) == [ended]
    assert listed(status="queued") == []


def test_pages_stay_right_while_processes_come_and_go(sbx_local: Any, box_of: Any) -> None:
    box = box_of(sbx_local)
    first = [box.start("sleep 30") for _ in range(5)]
    page = box.runtime.get("/processes", params={"limit": 2, "status": "running"}).json()
    seen = [p["id"] for p in page["data"]]
    box.start("sleep 30")  # comes
    box.kill(first[1])  # goes
    assert box.wait(first[1])["status"] == "killed"
    while page["next_cursor"]:
        query = {"limit": 2, "status": "running", "cursor": page["next_cursor"]}
        page = box.runtime.get("/processes", params=query).json()
        seen += [p["id"] for p in page["data"]]
    assert seen == [first[4], first[3], first[2], first[0]]


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=x", "cursor=-1", "cursor=zz", "status=odd", "created_after=1.5x"]
)
def test_a_query_that_can_not_be_right_is_refused(box: Any, query: str) -> None:
    assert box.runtime.get(f"/processes?{query}").status_code == 400


def test_processes_beyond_the_limit_wait_in_a_queue(local_server: Any, box_of: Any) -> None:
    box = box_of(local_server("--plain-starts", "--max-processes", "1", "--isolation", "none"))
    first = box.start("read line; echo first $line")
    second = box.start("cat; echo second")
    third, fourth = box.start("echo third"), box.start("true", cwd="/gone/by/then")
    assert [box.get(p)["status"] for p in (first, second, third)] == ["running", "queued", "queued"]
    assert box.get(second)["pid"] is None
    assert box.stdin(second, data="early ", eof=True).status_code == 200
    assert box.kill(third)["status"] == "killed"
    assert box.signal(second, "USR1").status_code == 409
    box.stdin(first, data="go\n")
    assert box.wait(first)["stdout"] == "first go\n"
    assert box.wait(second)["stdout"] == "early second\n"
    assert (box.wait(third)["status"], box.wait(third)["exit_code"]) == ("killed", None)
    failed = box.wait(fourth)
    assert failed["status"] == "failed"
    assert "/gone/by/then" in failed["error"]
