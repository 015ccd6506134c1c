"""Tasks that end in the triggerer, or start there: what they tell their trigger, and what is refused."""

import json
from datetime import timedelta
from importlib import import_module

import pytest
from airflow.exceptions import TaskDeferred
from airflow.sdk import DAG, Asset

from airflow_provider_sbx.api.errors import InvalidParameterError
from airflow_provider_sbx.compat import renders_in_triggerer
from airflow_provider_sbx.decorators.process import sandbox_command_task, sandbox_task
from airflow_provider_sbx.operators import workerless
from airflow_provider_sbx.operators.process import SandboxProcessOperator
from tests.unit.builders import SANDBOX
from tests.unit.operators.test_deferring import defer

needs_rendering = pytest.mark.skipif(not renders_in_triggerer(), reason="Airflow renders on workers only")


def operator(**options):
    return SandboxProcessOperator(**{"task_id": "task", "command": "true"} | options)


def function(result):
    return result


ON_A_WORKER = {
    "output_processor": function,
    "on_success_callback": function,
    "on_execute_callback": function,
    "on_skipped_callback": function,
    "outlets": [Asset("a")],
    "pre_execute": function,
    "post_execute": function,
    "deferrable": False,
}


@pytest.mark.parametrize("name", ["end_from_trigger", "start_from_trigger"])
@pytest.mark.parametrize("other", ON_A_WORKER)
def test_what_takes_a_worker_is_refused_by_name(name, other, monkeypatch):
    monkeypatch.setattr(workerless, "renders_in_triggerer", lambda: True)

    with pytest.raises(InvalidParameterError, match=f"{name}, {other}"):
        operator(**{name: True, other: ON_A_WORKER[other]})


@pytest.mark.parametrize("decorator", [sandbox_task, sandbox_command_task])
def test_a_function_is_called_on_a_worker(decorator):
    with DAG("d"), pytest.raises(InvalidParameterError, match="start_from_trigger"):
        decorator(start_from_trigger=True)(lambda_like)()


def lambda_like():
    return "true"


def test_a_functions_result_is_read_on_a_worker():
    with DAG("d"), pytest.raises(InvalidParameterError, match="end_from_trigger"):
        sandbox_task(end_from_trigger=True)(lambda_like)()


def test_an_airflow_that_renders_nothing_in_the_triggerer_is_told(monkeypatch):
    monkeypatch.setattr(workerless, "renders_in_triggerer", lambda: False)

    with pytest.raises(InvalidParameterError, match=r"Airflow 3\.3"):
        operator(start_from_trigger=True)


@needs_rendering
def test_input_of_bytes_is_refused():
    with pytest.raises(InvalidParameterError, match="start_from_trigger, stdin"):
        operator(start_from_trigger=True, stdin=b"x")


@needs_rendering
def test_no_secret_can_come_into_the_triggers_arguments():
    with pytest.raises(InvalidParameterError, match="DB_PASSWORD") as caught:
        operator(start_from_trigger=True, env={"DB_PASSWORD": "hunter2"})

    assert "hunter2" not in str(caught.value)
    operator(start_from_trigger=True, env={"DB_PASSWORD": "{{ conn.db.password }}"})


def test_a_task_is_deferred_with_how_it_ends(network, context_of):
    deferred = defer(
        network, context_of(), end_from_trigger=True, skip_on_exit_code=range(3, 5), max_output_bytes=9
    )

    assert deferred.trigger.ends == {
        "output_bytes": 9,
        "skip_on_exit_code": [3, 4],
        "pushes": True,
        "fails": False,
    }


def test_a_task_that_says_nothing_of_it_is_resumed_by_a_worker(network, context_of):
    assert defer(network, context_of()).trigger.ends is None


@needs_rendering
class TestStartTriggerArgs:
    def test_hold_every_field_as_it_was_written_and_make_the_trigger(self):
        task = operator(
            start_from_trigger=True,
            command="echo {{ ds }}",
            sandbox={"image_name": "python"},
            env={"A": "{{ params.a }}", "N": 1},
            timeout=timedelta(minutes=1),
            skip_on_exit_code=[7, 8],
            log_output=False,
            do_xcom_push=False,
        )
        args = task.start_trigger_args

        assert (task.start_from_trigger, args.next_method) == (True, "execute_complete")
        kwargs = json.loads(json.dumps(args.trigger_kwargs))
        assert kwargs["command"] == "echo {{ ds }}"
        assert (kwargs["timeout"], kwargs["env"]) == (60, {"A": "{{ params.a }}", "N": 1})
        assert (kwargs["wait_strategy"], kwargs["max_log_bytes"]) == ("wait", 0)
        assert kwargs["ends"] == {
            "output_bytes": 65536,
            "skip_on_exit_code": [7, 8],
            "pushes": False,
            "fails": True,
        }
        module, _, name = args.trigger_cls.rpartition(".")
        made = getattr(import_module(module), name)(**kwargs)
        assert made.serialize() == (args.trigger_cls, kwargs)

    def test_are_set_for_the_task_alone_since_mapped_ones_would_run_without_what_they_expand_to(self):
        operator(start_from_trigger=True)

        assert SandboxProcessOperator.start_from_trigger is False
        assert SandboxProcessOperator.start_trigger_args is None

    def test_an_empty_script_is_refused_by_the_name_of_its_task(self, tmp_path):
        (tmp_path / "y.py").write_text("")
        with DAG("d", template_searchpath=str(tmp_path)):
            task = operator(task_id="python", start_from_trigger=True, command="y.py")

        with pytest.raises(InvalidParameterError, match=r"^Task 'python': command: it is empty"):
            task.resolve_template_files()

    def test_hold_a_scripts_text_once_it_was_read(self, tmp_path):
        (tmp_path / "x.sh").write_text("echo {{ ds }}\n")
        (tmp_path / "y.py").write_text("print('{{ ds }}')\n")
        with DAG("d", template_searchpath=str(tmp_path)):
            shell = operator(start_from_trigger=True, command="x.sh")
            python = operator(task_id="python", start_from_trigger=True, command="y.py")
        shell.resolve_template_files()
        python.resolve_template_files()

        assert shell.start_trigger_args.trigger_kwargs["command"] == "echo {{ ds }}\n"
        command = python.start_trigger_args.trigger_kwargs["command"]
        assert command.startswith("exec python3 -c ")
        assert "print('{{ ds }}')" in command

    @pytest.mark.parametrize(
        "options",
        [
            {"command": "{{ ti.xcom_pull('a') }}"},
            {"env": {"A": "{{ my_macro() }}"}},
            {"sandbox_id": "{{ ti.xcom_pull('a') }}"},
        ],
    )
    def test_are_missing_where_a_triggerer_would_render_something_else(self, options):
        task = operator(start_from_trigger=True, **options)

        assert (task.start_from_trigger, task.start_trigger_args) == (False, None)

    def test_are_missing_where_the_dag_renders_native_objects(self):
        with DAG("d", render_template_as_native_obj=True):
            assert not operator(start_from_trigger=True).start_from_trigger

    def test_that_are_missing_let_the_task_start_on_a_worker_and_end_in_the_triggerer(
        self, network, context_of, caplog
    ):
        deferred = defer(network, context_of(), start_from_trigger=True, env={"A": "{{ ti.xcom_pull('a') }}"})

        assert isinstance(deferred, TaskDeferred)
        assert deferred.trigger.sandbox_id == SANDBOX
        assert deferred.trigger.ends["fails"] is False


@pytest.mark.parametrize("name", ["end_from_trigger", "start_from_trigger"])
def test_what_is_refused_names_the_task(name, monkeypatch):
    monkeypatch.setattr(workerless, "renders_in_triggerer", lambda: True)

    with pytest.raises(InvalidParameterError, match=f"^Task 'task': {name}, deferrable: a task that"):
        operator(**{name: True, "deferrable": False})
