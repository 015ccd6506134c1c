import subprocess

import pytest

from airflow_provider_sbx.api import errors
from airflow_provider_sbx.api.conversations import find_process, marked, process_key, terminate
from airflow_provider_sbx.api.models import ProcessPage
from tests.unit.builders import PROCESS, process_body, result, summary

STILL_RUNS = errors.WaitTimeoutError("still", status_code=408)
GONE = errors.NotFoundError("gone", status_code=404)
STOPPED = errors.SandboxNotRunningError("stopped", status_code=409)


def hold(conversation, *answers):
    """Give the answers in turn, the last again and again; return the result and what was asked."""
    asked, given = [], list(answers)
    try:
        call = next(conversation)
        while True:
            asked.append(call)
            answer = given.pop(0) if len(given) > 1 else given[0]
            call = conversation.throw(answer) if isinstance(answer, Exception) else conversation.send(answer)
    except StopIteration as stop:
        return stop.value, asked


def names(asked):
    return [call.path.rpartition("/")[2] if call.method == "POST" else call.method for call in asked]


# --- ending a process ------------------------------------------------------------------------


def test_a_process_that_had_ended_is_left_alone():
    ending, asked = hold(terminate(PROCESS, grace_seconds=10), summary(status="exited"))

    assert (ending.ended, ending.was_running) == (True, False)
    assert "exited" in ending.how
    assert names(asked) == ["GET"]


def test_a_process_that_heeds_term_is_not_killed():
    ending, asked = hold(terminate(PROCESS, grace_seconds=10), summary(), summary(), result())

    assert (ending.ended, ending.was_running, ending.how) == (True, True, "it ended after TERM")
    assert names(asked) == ["GET", "signal", "wait"]
    assert asked[1].body == {"signal": "TERM"}


def test_a_process_that_ends_just_before_term_has_ended():
    just_over = errors.ResponseError("process_not_running", status_code=409)

    ending, asked = hold(terminate(PROCESS, grace_seconds=10), summary(), just_over, result())

    assert ending.ended
    assert names(asked) == ["GET", "signal", "wait"]


def test_a_signal_that_is_refused_for_another_reason_is_told():
    with pytest.raises(errors.ResponseError):
        hold(terminate(PROCESS, grace_seconds=10), summary(), errors.ResponseError("no", status_code=400))


def test_another_signal_may_ask_it_to_end():
    ending, asked = hold(terminate(PROCESS, grace_seconds=10, signal="INT"), summary(), summary(), result())

    assert ending.how == "it ended after INT"
    assert asked[1].body == {"signal": "INT"}


def test_a_wait_that_is_answered_while_the_process_runs_is_not_its_end():
    running = result(status="running")
    ending, asked = hold(
        terminate(PROCESS, grace_seconds=10),
        summary(),
        summary(),
        running,
        summary(),
        result(status="killed"),
    )

    assert ending.how == "it was killed"
    assert names(asked) == ["GET", "signal", "wait", "DELETE", "wait"]


def test_a_process_that_ignores_term_is_killed_after_its_grace():
    ending, asked = hold(
        terminate(PROCESS, grace_seconds=10), summary(), summary(), STILL_RUNS, summary(), result()
    )

    assert (ending.ended, ending.how) == (True, "it was killed")
    assert names(asked) == ["GET", "signal", "wait", "DELETE", "wait"]
    assert asked[2].body["timeoutMs"] == 10_000


def test_a_long_grace_is_waited_for_in_turns_that_the_receiver_holds():
    _, asked = hold(
        terminate(PROCESS, grace_seconds=70), summary(), summary(), *[STILL_RUNS] * 3, summary(), result()
    )

    assert [call.body["timeoutMs"] for call in asked if call.path.endswith("/wait")][:3] == [
        30_000,
        30_000,
        10_000,
    ]


def test_without_grace_a_process_is_killed_at_once():
    _, asked = hold(terminate(PROCESS, grace_seconds=0), summary(), summary(), result())

    assert names(asked) == ["GET", "DELETE", "wait"]


def test_an_end_that_is_not_seen_is_not_claimed():
    ending, _ = hold(terminate(PROCESS, grace_seconds=0), summary(), summary(), STILL_RUNS)

    assert not ending.ended
    assert ending.was_running
    assert "not seen" in ending.how


@pytest.mark.parametrize("answers", [[GONE], [summary(), GONE], [summary(), summary(), STOPPED], [STOPPED]])
def test_what_is_no_longer_there_has_ended(answers):
    ending, _ = hold(terminate(PROCESS, grace_seconds=1), *answers)

    assert ending.ended
    assert not ending.was_running


def test_a_service_that_can_not_be_asked_is_an_error():
    with pytest.raises(errors.TransportError):
        hold(terminate(PROCESS, grace_seconds=1), errors.TransportError("cut", surely_unsent=False))


# --- finding a process by its key ------------------------------------------------------------


def page(*commands, cursor=None, **changes):
    processes = [
        process_body(id=f"p-{n}", command=command, started_at=n, **changes) for n, command in commands
    ]
    return ProcessPage.model_validate({"data": processes, "next_cursor": cursor})


def test_a_process_is_found_by_its_key_on_any_page():
    key = process_key("dag", "run", "task")
    first = page((1, "sleep 1"), (2, f"echo {key}"), cursor="c-1")
    second = page((3, marked("sleep 2", key, "label")))

    found, asked = hold(find_process(key, created_after=5), first, second)

    assert found.id == "p-3"
    assert [call.query.get("cursor") for call in asked] == [None, "c-1"]
    assert {call.query["created_after"] for call in asked} == {"5"}


def test_of_several_with_one_key_the_latest_is_found():
    key = process_key("x")
    command = marked("sleep 2", key, "label")

    found, _ = hold(find_process(key), page((1, command), (9, command), cursor="c"), page((5, command)))

    assert found.id == "p-9"


@pytest.mark.parametrize(
    "command", ["sleep 1", "", "# other-key label\nsleep", "echo '# {key} x'", "#{key} x", "# {key}x y\n"]
)
def test_a_command_without_the_key_as_its_mark_is_not_found(command):
    key = process_key("x")

    assert hold(find_process(key), page((1, command.format(key=key))))[0] is None


# --- keys and marks --------------------------------------------------------------------------


def test_a_key_differs_with_every_part_and_with_their_borders():
    keys = {
        process_key(*parts)
        for parts in [("a", "b", 1), ("a", "b", 2), ("ab", "", 1), ("a", "b1"), ("a", None, 1), ()]
    }

    assert len(keys) == 6
    assert process_key("a", 1) == process_key("a", 1)


def test_a_key_holds_nothing_that_a_shell_would_read():
    assert process_key("'; rm -rf /\n", "\ud800").removeprefix("sbx-").isalnum()


LABELS = ["plain", "two\nlines", "cr\rhere", "'quote\"", "$(exit 7) `exit 8` \\", "\x0b\x0c\x85\u2028rm"]
COMMANDS = {
    "echo ok": "ok\n",
    "cat <<'END'\n# heredoc\nEND\n": "# heredoc\n",
    "echo 'a\nb'": "a\nb\n",
    "# own comment\necho x": "x\n",
    "exit_code=3; echo $exit_code": "3\n",
}


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_marked_command_does_what_the_command_does_whatever_the_label(command, label):
    text = marked(command, process_key("x"), label)

    done = subprocess.run(["/bin/sh", "-c", text], capture_output=True, text=True, check=True)

    assert (done.stdout, done.stderr) == (COMMANDS[command], "")
    assert text.endswith("\n" + command)


@pytest.mark.parametrize("first", ["#!/bin/bash -e", "", "  ", "#!"])
def test_the_mark_takes_the_place_of_a_first_line_that_says_nothing_to_a_shell(first):
    assert marked(f"{first}\nnowhere\n", "key", "label") == "# key label\nnowhere\n"


@pytest.mark.parametrize("command", ["#!/bin/true", "", "# comment\nx", "\\\nx"])
def test_the_mark_takes_no_other_lines_place(command):
    assert marked(command, "key", "label") == f"# key label\n{command}"
