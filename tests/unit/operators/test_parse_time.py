"""What an operator refuses at parse time, by the parameter's name; and what it leaves for later."""

from datetime import timedelta

import pytest
from airflow.exceptions import AirflowFailException
from airflow.sdk import DAG, TaskGroup

from airflow_provider_sbx.api.errors import InvalidParameterError
from airflow_provider_sbx.operators.process import SandboxExecOperator, SandboxProcessOperator

KINDS = [SandboxExecOperator, SandboxProcessOperator]


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


ONE_PASSWORD = {"token": "t", "vault": "v", "fields": {"A": {"item": "i", "field": "f"}}}


def make(kind, **options):
    return kind(**{"task_id": "t", "command": "echo x", "sandbox_id": "sb-1"} | options)


def refused(kind, **options):
    with pytest.raises(InvalidParameterError) as caught:
        make(kind, **options)
    assert str(caught.value).startswith(f"Task 't': {caught.value.parameter}: ")
    return caught.value.parameter


@pytest.mark.parametrize("bad", [None, "", "  ", 5, ["echo"], "echo \0"])
def test_no_command_is_refused(kind, bad):
    assert refused(kind, command=bad) == "command"


@pytest.mark.parametrize("bad", [0, -1, -0.5, "0", "soon", timedelta(0), timedelta(-1), True, [5]])
def test_a_timeout_that_can_not_be_one_is_refused(kind, bad):
    assert refused(kind, timeout=bad) == "timeout"


@pytest.mark.parametrize(
    ("env", "parameter"),
    [
        ({"1A": "x"}, "env"),
        ({"A-B": "x"}, "env"),
        ({"": "x"}, "env"),
        ({5: "x"}, "env"),
        ("A=x", "env"),
        ({"A": None}, "env['A']"),
        ({"A": ["x"]}, "env['A']"),
        ({"A": True}, "env['A']"),
        ({"A": "\0"}, "env['A']"),
    ],
)
def test_an_environment_that_can_not_be_one_is_refused(kind, env, parameter):
    assert refused(kind, env=env) == parameter


@pytest.mark.parametrize("name", ["cwd", "run_as", "sandbox_id"])
@pytest.mark.parametrize("bad", ["", " ", 5, "a\0"])
def test_a_text_that_can_not_be_one_is_refused(kind, name, bad):
    assert refused(kind, **{name: bad}) == name


def test_two_sandboxes_are_refused(kind):
    assert refused(kind, sandbox={"image_name": "python"}) == "sandbox_id, sandbox"


@pytest.mark.parametrize(
    ("spec", "parameter"),
    [
        ({}, "sandbox"),
        ("python", "sandbox"),
        ({"image": "python"}, "sandbox['image']"),
        ({"image_name": "\0"}, "sandbox['image_name']"),
    ],
)
def test_a_spec_that_can_not_be_right_is_refused(kind, spec, parameter):
    assert refused(kind, sandbox_id=None, sandbox=spec) == parameter


@pytest.mark.parametrize(
    ("options", "parameter"),
    [
        ({"wait_strategy": "guess"}, "wait_strategy"),
        ({"wait_strategy": None}, "wait_strategy"),
        ({"poll_interval": 0}, "poll_interval"),
        ({"poll_interval": 0.4}, "poll_interval"),
        ({"poll_interval": "often"}, "poll_interval"),
        ({"poll_interval": float("nan")}, "poll_interval"),
        ({"poll_interval": True}, "poll_interval"),
        ({"kill_grace": -1}, "kill_grace"),
        ({"defer_after": -1}, "defer_after"),
        ({"max_output_bytes": -1}, "max_output_bytes"),
        ({"max_output_bytes": 1.5}, "max_output_bytes"),
        ({"max_output_bytes": 2**40}, "max_output_bytes"),
        ({"max_log_bytes": 0}, "max_log_bytes"),
        ({"append_airflow_env": "yes"}, "append_airflow_env"),
        ({"append_airflow_env": None}, "append_airflow_env"),
        ({"log_output": "no"}, "log_output"),
        ({"log_output": 0}, "log_output"),
        ({"deferrable": "yes"}, "deferrable"),
        ({"deferrable": 1}, "deferrable"),
        ({"default_args": {"deferrable": "no"}}, "deferrable"),
        ({"output_processor": "len"}, "output_processor"),
        ({"output_processor": {}}, "output_processor"),
        ({"sbx_conn_id": None}, "sbx_conn_id"),
        ({"sbx_conn_id": ""}, "sbx_conn_id"),
        ({"sbx_conn_id": 5}, "sbx_conn_id"),
        ({"default_args": {"sbx_conn_id": " "}}, "sbx_conn_id"),
        ({"env": {"A": "x" * 200_000}}, "env['A']"),
        ({"secrets": {"1A": "n"}}, "secrets.1A.[key]"),
        ({"secrets": {"A": "no/slash"}}, "secrets.A.name"),
        ({"secrets": {f"A{n}": "n" for n in range(33)}}, "secrets"),
        ({"secrets": {"A": "n"}, "env": {"A": "{{ x }}"}}, "env, secrets"),
        ({"secrets": {"A": "n"}, "one_password": ONE_PASSWORD}, "secrets, one_password"),
        ({"one_password": ONE_PASSWORD, "env": {"A": "x"}}, "env, one_password"),
        ({"one_password": {"vault": "v", "fields": {}}}, "one_password.token"),
        ({"vault": ""}, "vault"),
    ],
)
def test_an_option_that_can_not_be_right_is_refused(kind, options, parameter):
    assert refused(kind, **options) == parameter


@pytest.mark.parametrize("name", ["wait_for_completion", "start_from_trigger", "end_from_trigger"])
@pytest.mark.parametrize("bad", ["yes", "no", None, 1])
def test_a_yes_or_no_that_is_neither_is_refused(name, bad):
    assert refused(SandboxProcessOperator, **{name: bad}) == name


@pytest.mark.parametrize("bad", [5, ["x"], {"a": 1}])
def test_input_that_can_not_be_written_is_refused(bad):
    assert refused(SandboxProcessOperator, stdin=bad) == "stdin"


def test_input_for_a_one_shot_command_is_refused_by_its_name():
    with pytest.raises(TypeError, match="stdin"):
        make(SandboxExecOperator, stdin="x")


def test_a_sandbox_of_its_own_for_a_process_that_nobody_waits_for_is_refused():
    options = {"sandbox_id": None, "sandbox": {"image_name": "python"}, "wait_for_completion": False}

    assert refused(SandboxProcessOperator, **options) == "wait_for_completion, sandbox"


@pytest.mark.parametrize(
    "options",
    [
        {"command": "{{ x }}"},
        {"timeout": "{{ x }}"},
        {"env": {"A": "{{ x }}", "B": "y"}},
        {"env": "{{ x }}"},
        {"cwd": "{{ x }}", "run_as": "{{ x }}", "sandbox_id": "{{ x }}"},
        {"sandbox_id": None, "sandbox": {"image_name": "{{ x }}"}},
        {"secrets": {"A": "{{ x }}"}, "vault": "{{ x }}"},
        {"one_password": ONE_PASSWORD | {"vault": "{{ x }}"}},
        {"sbx_conn_id": "{{ x }}"},
    ],
)
def test_templates_are_not_checked_before_they_are_rendered(kind, options):
    make(kind, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"timeout": timedelta(minutes=1)},
        {"timeout": "60"},
        {"env": {"N": 1, "F": 0.5}},
        {"kill_grace": 0},
        {"kill_grace": timedelta(seconds=3)},
        {"defer_after": 0},
        {"max_output_bytes": 0},
        {"skip_on_exit_code": None},
        {"skip_on_exit_code": [1, 2]},
        {"skip_on_exit_code": range(1, 1000)},
        {"deferrable": None},
        {"default_args": {"deferrable": None}},
        {"output_processor": len},
        {"sandbox_id": None, "sandbox": {"image_name": "python", "cpu": 2}},
        {"secrets": {"A": "n", "B": {"name": "m", "version": 3}}},
        {"secrets": {"B": "n"}, "vault": "v", "one_password": ONE_PASSWORD, "env": {"C": "x", "{{ y }}": ""}},
    ],
)
def test_what_can_be_right_is_taken(kind, options):
    make(kind, **options)


def test_neither_a_sandbox_nor_a_spec_may_be_right_since_a_connection_may_name_one(kind):
    make(kind, sandbox_id=None)


def test_a_command_that_ends_in_a_files_name_is_no_file(kind):
    assert tuple(make(kind, command="python main.py").template_ext) == ()
    assert ".py" in make(kind, command="main.py").template_ext


def test_a_long_process_waits_in_the_triggerer_unless_told_otherwise():
    assert make(SandboxProcessOperator).deferrable
    assert not make(SandboxProcessOperator, deferrable=False).deferrable
    assert not make(SandboxExecOperator).deferrable


@pytest.mark.usefixtures("deferring_by_default")
def test_a_one_shot_command_waits_where_the_configuration_says():
    assert make(SandboxExecOperator).deferrable


# --- found wanting ---------------------------------------------------------------------------


@pytest.mark.parametrize("bad", ["99", 1.5, object(), ["99"], 256, -1, [1, 256], {-9}])
def test_skip_codes_that_can_not_be_ones_are_refused(kind, bad):
    assert refused(kind, skip_on_exit_code=bad) == "skip_on_exit_code"


@pytest.mark.parametrize("name", ["poll_interval", "kill_grace", "defer_after"])
def test_no_duration_is_not_taken_for_none_at_all(kind, name):
    assert refused(kind, **{name: None}) == name


@pytest.mark.parametrize("given", ["2", timedelta(seconds=2)])
def test_a_wait_before_deferring_may_be_written_as_any_other_duration(given):
    operator = make(SandboxProcessOperator, defer_after=given)

    assert operator._options(deferrable=True).defer_after == 2


def test_no_grace_may_be_written_as_a_timedelta(kind):
    make(kind, kill_grace=timedelta(0))


# --- of which task ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"command": ""}, "command: it is empty. Name the command to run."),
        ({"wait_strategy": "guess"}, "wait_strategy: 'guess' is unknown."),
        ({"log_output": "no"}, "log_output: 'no' is neither True nor False. Give one of the two."),
    ],
)
def test_what_is_refused_names_the_task_with_its_groups(kind, options, says):
    with DAG("d"), TaskGroup("etl"), pytest.raises(InvalidParameterError) as caught:
        make(kind, task_id="fetch", **options)

    assert str(caught.value).startswith(f"Task 'etl.fetch': {says}")


def test_a_mapped_task_is_named_as_well(kind):
    with DAG("d") as dag:
        kind.partial(task_id="fetch", sandbox_id="sb-1").expand(command=["x", ""])

    with pytest.raises(InvalidParameterError, match=r"^Task 'fetch': command: it is empty"):
        dag.get_task("fetch").unmap({"command": ""})


def test_what_is_refused_when_it_is_rendered_does_not_name_the_task(kind, network, context_of):
    task = make(kind, command="{{ x }}")
    task.command = ""

    with pytest.raises(AirflowFailException, match=r"^command: it is empty"):
        task.execute(context_of())
    assert network.requests == []
