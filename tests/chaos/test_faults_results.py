"""What a task returns, over a stream that is cut again and again: no result is lost without a word."""

import json

from tests.chaos.proxy import Rule, streams
from tests.chaos.proxy.faults import CloseStream, CutAfter
from tests.chaos.runs import Script


def cut(run):
    return [Rule(streams, CutAfter(lambda: run.rng.randint(2, 7), CloseStream))]


def test_a_task_that_pushes_nothing_has_its_result_and_its_log(chaos):
    for run in chaos(cut, do_xcom_push=False):
        assert run.pushed == {}


def test_a_result_that_is_too_large_keeps_its_end_and_says_so(chaos):
    def shown(result):
        return {**result, "bytes": len(json.dumps(result)), "tail": result["stdout"], "stdout": ""}

    script = Script(lines=24)
    runs = chaos(cut, script, max_output_bytes=100, output_processor=lambda result: [shown(result)])
    for run in runs:
        (result,) = run.result
        assert result["bytes"] < 1500
        assert result["stdout_truncated"]
        assert result["tail"].splitlines()[1:] == script.stdout[-len(result["tail"].splitlines()) + 1 :]
        assert not result["output_lost"]
        assert run.log.lines() == script.stdout


def test_a_processor_that_raises_fails_the_task_with_its_own_error_and_the_log_has_all(chaos):
    def processor(result):
        raise KeyError("no such column")

    script = Script()
    for run in chaos(cut, script, succeeds=False, output_processor=processor):
        assert isinstance(run.error, KeyError)
        assert run.log.lines() == script.stdout
        assert any("exited, exit code 0" in notice for notice in run.log.notices)


def test_an_exit_code_and_the_end_of_stderr_survive_the_cuts(chaos):
    script = Script(lines=24, ending="echo 'what went wrong' >&2; exit 3", also_stderr=("what went wrong",))
    for run in chaos(cut, script, succeeds=False):
        assert "exit code 3" in str(run.error)
        assert "what went wrong" in str(run.error)
