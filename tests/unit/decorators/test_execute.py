"""A try of a decorated task on a worker, over a service that stands where the network would."""

import json
from datetime import UTC, datetime

import httpx
import pytest
from airflow.exceptions import AirflowFailException, AirflowSkipException, TaskDeferred

from airflow_provider_sbx.api.errors import ProcessFailedError, ProcessKilledError
from airflow_provider_sbx.api.frames import MARK
from airflow_provider_sbx.decorators.process import sandbox_command_task, sandbox_task
from airflow_provider_sbx.runs.attempt import Attempt
from tests.unit.builders import PROCESS, SANDBOX, T0_MS, process_body, result_body, sse, sse_output
from tests.unit.client.twins import event_stream, held_stream

P = "/sandbox/processes"
START, LIST, GET = ("POST", P), ("GET", P), ("GET", f"{P}/{PROCESS}")
STREAM, STDIN = ("GET", f"{P}/{PROCESS}/stream"), ("POST", f"{P}/{PROCESS}/stdin")
WAIT = ("POST", f"{P}/{PROCESS}/wait")


def framed(said):
    return f"{MARK}1/1:{json.dumps(said)}\n"


def add(a, b=2, *, ds=None):
    print(a)
    return a + b


def function(fn=add, *args, **options):
    return sandbox_task(**{"sandbox_id": SANDBOX, "deferrable": False} | options)(fn)(*args).operator


def command(fn, *args, **options):
    return sandbox_command_task(**{"sandbox_id": SANDBOX, "deferrable": False} | options)(fn)(*args).operator


@pytest.fixture
def ends(network):
    """Let the next start stream some output and end."""

    def queue(*pieces, **changes):
        outputs = [sse_output(seq, text) for seq, text in enumerate(pieces, 1)]
        done = sse("done", result_body(last_seq=len(pieces), **changes))
        network.queue(*START, event_stream(sse("started", process_body()), *outputs, done))
        network.queue(*STDIN, {"success": True})

    return queue


def sent(network, where):
    return [json.loads(r.content) for r in network.requests if (r.method, r.url.path) == where]


# --- a function ------------------------------------------------------------------------------


def test_a_function_goes_by_input_and_its_result_comes_from_the_end_of_the_output(network, ends, context_of):
    ends("1\n", framed({"result": 3}))

    result = function(add, 1).execute(context_of() | {"ds": "2026-01-02", "ti": context_of()["ti"]})

    assert result == 3
    (written,) = sent(network, STDIN)
    call = json.loads(written["data"])
    assert (call["name"], call["args"], call["kwargs"]) == ("add", [1], {"ds": "2026-01-02"})
    assert call["source"].startswith("def add(a, b=2, *, ds=None):\n    print(a)\n")
    assert (call["file"], call["line"]) == ("test_execute.py", add.__code__.co_firstlineno)
    assert (call["requirements"], call["limit_bytes"]) == ([], 65_536)
    assert (written["encoding"], written["eof"]) == ("utf8", True)


def test_the_command_says_neither_the_function_nor_its_arguments(network, ends, context_of):
    ends(framed({"result": None}))
    function(add, "private", python="/opt/my python/bin/python3").execute(context_of())

    (start,) = sent(network, START)
    assert "\nexec '/opt/my python/bin/python3' -c 'import json" in start["command"]
    assert len(start["command"]) < 1000
    assert "private" not in start["command"]
    assert "def add" not in start["command"]


def test_a_function_larger_than_a_command_may_be_is_sent_all_the_same(network, ends, context_of):
    ends(framed({"result": 1}))

    assert function(add, "x" * 500_000).execute(context_of()) == 1


def test_no_frame_is_shown_in_the_log(ends, context_of, capsys):
    ends("out\nhalf", framed({"result": "told"}))
    operator = function(add, 1)
    operator.execute(context_of())

    assert MARK not in capsys.readouterr().out


def test_an_exception_is_named_with_the_end_of_stderr(ends, context_of):
    ends(framed({"failure": "raised ValueError: no"}), exit_code=1)

    with pytest.raises(ProcessFailedError, match=r"^add raised ValueError: no\nProcess p-1 .* exit code 1"):
        function(add, 1).execute(context_of())


def test_an_exit_code_skips_also_when_the_function_failed(ends, context_of):
    ends(exit_code=99)
    with pytest.raises(AirflowSkipException):
        function(add, 1).execute(context_of())
    ends(framed({"failure": "raised ValueError: no"}), exit_code=1)
    with pytest.raises(AirflowSkipException):
        function(add, 1, skip_on_exit_code=1).execute(context_of(with_store=False))


def test_a_process_that_dies_is_told_of_as_any(ends, context_of):
    ends(exit_code=7)
    with pytest.raises(ProcessFailedError, match=r"^Process p-1 in sandbox sb-1 failed with exit code 7"):
        function(add, 1).execute(context_of())
    ends(framed({"failure": "raised KeyboardInterrupt"}), exit_code=None, status="killed")
    with pytest.raises(ProcessKilledError):
        function(add, 1).execute(context_of(with_store=False))


@pytest.mark.parametrize("pieces", [(), ("out\n",), (framed({"result": "x" * 99_000})[-70_000:],)])
def test_an_end_without_a_readable_result_is_a_failure(ends, context_of, pieces):
    ends(*pieces)

    with pytest.raises(ProcessFailedError, match=r"add came to its end .* return value could not be read"):
        function(add, 1).execute(context_of())


def test_an_argument_that_turns_out_unfit_fails_for_good_before_anything_is_started(network, context_of):
    operator = function(add, "{{ x }}")
    operator.op_args = [datetime.now(UTC)]

    with pytest.raises(AirflowFailException, match=r"a \(op_args\[0\]\): a datetime can't be sent"):
        operator.execute(context_of())
    assert network.requests == []


def test_requirements_and_python_are_templates(network, ends, context_of):
    ends(framed({"result": 1}))
    operator = function(add, 1, requirements=["x=={{ v }}"], python="python{{ v }}")
    operator.render_template_fields({"v": "3"})
    operator.execute(context_of())

    assert json.loads(sent(network, STDIN)[0]["data"])["requirements"] == ["x==3"]
    assert "exec python3 -c" in sent(network, START)[0]["command"]


def test_a_result_is_taken_after_a_deferral(network, context_of):
    network.queue(*START, held_stream(sse("started", process_body()), sse_output(1, "a\n")))
    network.queue(*STDIN, {"success": True})
    with pytest.raises(TaskDeferred) as caught:
        function(add, 1, deferrable=True, defer_after=0.05).execute(context_of())
    deferred = caught.value
    assert "def add" not in repr(deferred.trigger.serialize())
    assert "def add" not in repr(deferred.kwargs)

    network.queue(*WAIT, {"result": result_body(stdout="a\n" + framed({"result": 3}))})
    event = {
        "sandbox_id": SANDBOX,
        "process_id": PROCESS,
        "status": "exited",
        "exit_code": 0,
        "started_at": T0_MS,
    }
    resumed = function(add, 1, deferrable=True)
    assert getattr(resumed, deferred.method_name)(context_of(), event, **deferred.kwargs) == 3


def test_a_try_after_a_lost_worker_takes_the_result_of_the_process_that_it_left(network, context_of):
    Attempt(context_of(1)).remember(SANDBOX, PROCESS)
    network.queue(*GET, {"process": process_body()})
    # The lost worker may not have come to write the function.
    network.queue(*STDIN, {"success": True})
    done = sse("done", result_body(last_seq=1))
    network.queue(*STREAM, event_stream(sse_output(1, framed({"result": 3})), done))

    assert function(add, 1).execute(context_of(2)) == 3
    assert sent(network, START) == []
    assert json.loads(sent(network, STDIN)[0]["data"])["name"] == "add"


def test_a_function_whose_start_lost_its_answer_is_given_its_input(network, context_of):
    network.queue(*START, httpx.ReadError("the line was cut"))
    network.queue_late(*LIST, lambda: {"data": [process_body(command=sent(network, START)[0]["command"])]})
    network.queue(*STDIN, {"success": True})
    done = sse("done", result_body(last_seq=1))
    network.queue(*STREAM, event_stream(sse_output(1, framed({"result": 3})), done))

    assert function(add, 1).execute(context_of()) == 3
    assert len(sent(network, START)) == len(sent(network, STDIN)) == 1


# --- a command -------------------------------------------------------------------------------


def test_a_returned_command_is_run_and_its_templates_are_rendered(network, ends, context_of):
    ends("x\n")

    def echo(what, ds):
        return f"echo {what} {ds} {{{{ ds }}}} {{{{ task.task_id }}}}\n"

    operator = command(echo, "a", env={"A": "1"})
    result = operator.execute(context_of() | {"ds": "2026-01-02", "task": operator})

    (start,) = sent(network, START)
    assert start["command"].partition("\n")[2] == "echo a 2026-01-02 2026-01-02 echo\n"
    assert (start["env"]["A"], result["stdout"]) == ("1", "x\n")
    assert operator.overwrite_rtif_after_execution
    assert not command(echo, "a").overwrite_rtif_after_execution


def test_arguments_are_not_rendered_twice(network, ends, context_of):
    ends()

    def echo(what):
        assert what == "{{ secret }}"
        return "echo"

    operator = command(echo, "{{ x }}")
    operator.render_template_fields({"x": "{{ secret }}"})
    operator.execute(context_of())

    assert list(operator.op_args) == ["{{ secret }}"]


@pytest.mark.parametrize(
    ("returned", "what"),
    [(None, "a NoneType"), (5, "a int"), (["echo"], "a list"), (" \n", "an empty text"), (b"x", "a bytes")],
)
def test_what_is_no_command_fails_for_good_by_the_functions_name(network, context_of, returned, what):
    def make():
        return returned

    with pytest.raises(AirflowFailException, match=f"make returned {what}. Let it return the shell command"):
        command(make).execute(context_of())
    assert network.requests == []


def test_a_script_files_name_is_a_command_like_any(network, ends, context_of):
    ends()
    command(lambda: "nightly.sh", task_id="t").execute(context_of())

    assert sent(network, START)[0]["command"].endswith("\nnightly.sh")


def test_what_the_function_itself_raises_is_raised(network, context_of):
    def make():
        raise AirflowSkipException("nothing to do")

    with pytest.raises(AirflowSkipException):
        command(make).execute(context_of())
    assert network.requests == []
