"""A command that is the name of a script: read beside the DAG, or left to the sandbox."""

import logging

import pytest
from airflow.exceptions import AirflowFailException
from airflow.sdk import DAG

from airflow_provider_sbx.operators.process import SandboxExecOperator, SandboxProcessOperator
from tests.unit.operators.test_workerless import needs_rendering


@pytest.fixture
def task_of(tmp_path):
    """Make a task in a DAG that finds `beside.sh` and `beside.py`."""
    (tmp_path / "beside.sh").write_text("echo {{ word }}\n")
    (tmp_path / "beside.py").write_text("print('{{ word }}')\n")

    def make(command, kind=SandboxExecOperator, **options):
        with DAG("d", template_searchpath=str(tmp_path)):
            return kind(task_id="task", command=command, append_airflow_env=False, **options)

    return make


def command_of(task):
    """Return what is run, as a worker renders it."""
    context = {"word": "hello"}
    task.render_template_fields(context)
    return task._parameters(context, None).command


@pytest.mark.parametrize("resolved", [True, False])
@pytest.mark.parametrize(
    ("command", "holds"),
    [("beside.sh", "echo hello"), ("/beside.sh", "echo hello"), ("beside.py", "print('hello')\n")],
)
def test_a_script_beside_the_dag_is_sent_rendered(task_of, command, holds, resolved):
    task = task_of(command)
    if resolved:
        task.resolve_template_files()

    sent = command_of(task)
    assert holds in sent
    assert ("python3" in sent) is command.endswith(".py")


@pytest.mark.parametrize("resolved", [True, False])
@pytest.mark.parametrize("command", ["/app/run.sh", "/app/{{word}}.sh", "/app/job.py"])
def test_a_whole_path_that_is_not_there_is_the_sandboxes(task_of, command, resolved, caplog):
    task = task_of(command)
    with caplog.at_level(logging.WARNING):
        if resolved:
            task.resolve_template_files()

        assert command_of(task) == command.replace("{{word}}", "hello")
    assert not caplog.records


@pytest.mark.parametrize("command", ["run.sh", "jobs/run.py"])
def test_a_script_that_is_not_there_fails_for_good_by_its_name_and_the_remedy(task_of, command):
    task = task_of(command)
    task.resolve_template_files()

    with pytest.raises(AirflowFailException, match=rf"command.*'{command}'.*template_searchpath.*whole path"):
        command_of(task)


def test_a_script_that_can_not_be_read_is_left_to_airflow(task_of, tmp_path):
    (tmp_path / "odd.sh").write_bytes(b"echo \xe9\n")

    task_of("odd.sh").resolve_template_files()  # which logs it, and the DAG loads


@pytest.mark.parametrize("resolved", [True, False])
def test_of_a_task_with_a_script_other_fields_may_end_in_a_files_name(task_of, resolved):
    task = task_of("beside.sh", env={"MAIN": "main.py", "SAME": "beside.py"})
    if resolved:
        task.resolve_template_files()

    assert "echo hello" in command_of(task)
    assert task.env == {"MAIN": "main.py", "SAME": "beside.py"}


@pytest.mark.parametrize("text", ["print('{{ 1 + 1 }}')\n", "echo ${#a[@]}\n", "{{ word }}"])
def test_what_a_task_is_mapped_over_is_no_template(task_of, text):
    task = task_of(text)

    assert task.render_template(text, {"word": "x"}, seen_oids={id(text)}) == text


def test_a_value_that_can_not_be_compared_is_rendered_as_airflow_does(task_of):
    class Frame:
        def __eq__(self, other):
            raise ValueError("The truth value of a DataFrame is ambiguous")

        __hash__ = None

    frame = Frame()
    assert task_of("true").render_template([frame], {})[0] is frame


@needs_rendering
class TestInTheTriggerer:
    def test_a_script_that_is_not_there_is_looked_for_on_a_worker(self, task_of):
        task = task_of("run.sh", SandboxProcessOperator, start_from_trigger=True)
        task.resolve_template_files()

        assert task.start_from_trigger is False
        assert "'run.sh' was not found" in task._why_on_a_worker

    def test_a_whole_path_is_the_sandboxes(self, task_of):
        task = task_of("/app/job.py", SandboxProcessOperator, start_from_trigger=True)
        task.resolve_template_files()

        assert task.start_from_trigger is True
        assert task.start_trigger_args.trigger_kwargs["command"] == "/app/job.py"
