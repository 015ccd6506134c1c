"""The decorators as a DAG's author meets them: what they take, and what they refuse when the DAG is read."""

import functools
import inspect
import typing
from datetime import timedelta
from importlib.metadata import distributions

import pytest
from airflow.sdk import DAG, TaskGroup, task

from airflow_provider_sbx.api.errors import InvalidParameterError
from airflow_provider_sbx.decorators.operators import (
    SandboxCommandDecoratedOperator,
    SandboxFunctionDecoratedOperator,
)
from airflow_provider_sbx.decorators.process import sandbox_command_task, sandbox_task
from airflow_provider_sbx.operators.process import SandboxExecOperator, SandboxProcessOperator

BOTH = [sandbox_task, sandbox_command_task]


@pytest.fixture(autouse=True)
def dag():
    with DAG("dag") as dag:
        yield dag


def fn(a=None):
    return "echo"


def refused(parameter, call, *args, **kwargs):
    with pytest.raises(InvalidParameterError) as caught:
        call(*args, **kwargs)
    assert caught.value.parameter == parameter
    return str(caught.value)


# --- what they are ---------------------------------------------------------------------------


def test_they_are_registered_with_airflow_under_task():
    if not any(d.name == "airflow-provider-sbx" for d in distributions()):
        pytest.skip("the provider is not installed")

    assert task.sandbox is sandbox_task
    assert task.sandbox_command is sandbox_command_task


@pytest.mark.parametrize("decorator", BOTH)
def test_a_decorated_function_makes_a_task_that_is_a_process_and_deferrable(decorator):
    operator = decorator(fn)(1).operator

    assert isinstance(operator, SandboxProcessOperator)
    assert (operator.task_id, operator.op_args, operator.deferrable) == ("fn", (1,), True)
    assert operator.custom_operator_name == (
        "@task.sandbox" if decorator is sandbox_task else "@task.sandbox_command"
    )


@pytest.mark.parametrize("decorator", BOTH)
def test_options_go_to_the_operator_and_can_be_overridden(decorator):
    made = decorator(sandbox_id="sb-1", env={"A": "1"}, deferrable=False, retries=3)(fn)

    operator = made(1).operator
    assert (operator.sandbox_id, operator.env, operator.deferrable) == ("sb-1", {"A": "1"}, False)
    assert operator.retries == 3
    other = made.override(task_id="other", sandbox_id="sb-2")(2).operator
    assert (other.task_id, other.sandbox_id, other.env) == ("other", "sb-2", {"A": "1"})


@pytest.mark.parametrize("decorator", BOTH)
def test_a_function_is_mapped_over_its_arguments(decorator, dag):
    def both(a, b):
        return f"echo {a} {b}"

    decorator(sandbox_id="sb-1")(both).partial(a=1).expand(b=[1, 2])

    mapped = dag.get_task("both")
    unmapped = mapped.unmap({"op_kwargs": {"a": 1, "b": 2}, "python_callable": both})
    assert (unmapped.op_kwargs, unmapped.sandbox_id) == ({"a": 1, "b": 2}, "sb-1")
    assert tuple(mapped.template_ext) == ()


@pytest.mark.parametrize("decorator", BOTH)
def test_the_result_of_a_task_before_is_an_argument(decorator, dag):
    first = decorator(task_id="first", sandbox_id="sb-1")(fn)()
    decorator(task_id="second", sandbox_id="sb-1")(fn)(first)

    assert dag.get_task("second").upstream_task_ids == {"first"}


@pytest.mark.parametrize("decorator", BOTH)
def test_arguments_are_templates_and_never_the_names_of_files(decorator, context_of):
    operator = decorator(sandbox_id="sb-1")(fn)("{{ ds }}/main.py").operator

    operator.render_template_fields({"ds": "2026-01-02"})

    assert list(operator.op_args) == ["2026-01-02/main.py"]
    assert tuple(operator.template_ext) == ()
    for field in operator.template_fields:
        assert hasattr(operator, field)


def test_several_outputs_are_inferred_from_the_return_annotation():
    def many() -> dict[str, int]:
        return {}

    def one() -> int:
        return 1

    assert [
        sandbox_task(many)().operator.multiple_outputs,
        sandbox_task(one)().operator.multiple_outputs,
    ] == [
        True,
        False,
    ]


@pytest.mark.parametrize(
    ("decorator", "operator"),
    [
        (sandbox_task, SandboxFunctionDecoratedOperator),
        (sandbox_command_task, SandboxCommandDecoratedOperator),
    ],
)
def test_an_editor_knows_every_option_that_the_operators_have(decorator, operator):
    options = set()
    for kind in (SandboxExecOperator, SandboxProcessOperator, operator):
        options |= set(inspect.signature(kind.__init__.__wrapped__).parameters)
    options -= {"self", "kwargs", "command", "python_callable", "op_args", "op_kwargs", "start_from_trigger"}
    if decorator is sandbox_task:
        options -= {"stdin", "wait_for_completion", "output_processor", "end_from_trigger"}
    with_options = typing.get_overloads(decorator)[-1]

    known = set(inspect.signature(with_options).parameters) - {"kwargs", "multiple_outputs"}
    assert known == options


# --- what they refuse ------------------------------------------------------------------------


@pytest.mark.parametrize("function", [functools.partial(fn, 1), len, "fn".upper, SandboxExecOperator])
def test_what_is_no_function_is_refused_where_it_is_decorated(function):
    assert "is no plain function" in refused("python_callable", sandbox_task, function)
    refused("python_callable", sandbox_task(task_id="t"), function)


def test_a_lambda_is_refused_and_is_a_command_like_another():
    refused("python_callable", sandbox_task(task_id="t"), lambda: 1)
    sandbox_command_task(task_id="t")(lambda: "echo")()


def test_a_function_that_needs_its_surroundings_is_refused_when_the_dag_is_read():
    def closes():
        return dag

    def uses_an_import():
        return timedelta(1)

    dag = 5
    assert "closes uses dag" in refused("python_callable", sandbox_task, closes)
    assert "uses timedelta" in refused("python_callable", sandbox_task, uses_an_import)


@pytest.mark.parametrize(
    "options", [{"serializer": "pickle"}, {"requirements": "pandas"}, {"requirements": [5]}]
)
def test_a_mapped_task_is_refused_when_the_dag_is_read_too(options):
    refused(next(iter(options)) + "[0]" * (options == {"requirements": [5]}), sandbox_task(**options), fn)


def test_with_cloudpickle_a_function_may_use_its_surroundings():
    pytest.importorskip("cloudpickle")

    def closes():
        return dag, timedelta(1)

    dag = 5
    sandbox_task(serializer="cloudpickle")(closes)()


@pytest.mark.parametrize(
    ("options", "parameter"),
    [
        ({"python": ""}, "python"),
        ({"python": None}, "python"),
        ({"python": 3}, "python"),
        ({"requirements": "pandas"}, "requirements"),
        ({"requirements": [1]}, "requirements[0]"),
        ({"requirements": ["a", " "]}, "requirements[1]"),
        ({"requirements": ["a\nb"]}, "requirements[0]"),
        ({"serializer": "pickle"}, "serializer"),
        ({"serializer": None}, "serializer"),
        ({"command": "echo"}, "command"),
        ({"stdin": "x"}, "stdin"),
        ({"wait_for_completion": False}, "wait_for_completion"),
        ({"output_processor": len}, "output_processor"),
        ({"max_output_bytes": 100}, "max_output_bytes"),
        ({"timeout": -1}, "timeout"),
    ],
)
def test_an_option_that_can_not_be_right_is_refused_by_its_name(options, parameter):
    refused(parameter, lambda: sandbox_task(**options)(fn)())


@pytest.mark.parametrize(
    ("args", "kwargs", "parameter"),
    [
        ((timedelta(1),), {}, "a (op_args[0])"),
        ((), {"a": {"x": object()}}, "op_kwargs['a']['x']"),
    ],
)
def test_an_argument_that_can_not_be_sent_is_refused_by_its_name(args, kwargs, parameter):
    refused(parameter, sandbox_task(fn), *args, **kwargs)


def test_a_part_of_the_context_that_can_not_be_sent_is_refused_by_its_name():
    def asks(ti=None):
        return ti

    refused("ti", sandbox_task(asks))


@pytest.mark.parametrize("options", [{"timeout": 0}, {"env": {"1": "x"}}, {"stdin": 5}])
def test_a_command_has_its_options_checked_too(options):
    refused(next(iter(options)), sandbox_command_task(**options)(fn))


def test_what_has_the_functions_place_is_told_with_who_takes_it():
    place = "the function takes its place. Leave it out;"
    for decorator in BOTH:
        says = refused("command", lambda d=decorator: d(command="x")(fn)())
        assert says == f"Task 'fn': command: {place} SandboxProcessOperator takes it."
    says = refused("stdin", lambda: sandbox_task(stdin="x")(fn)())
    assert says == f"Task 'fn': stdin: {place} @task.sandbox_command takes it."


@pytest.mark.parametrize("decorator", BOTH)
def test_what_has_the_functions_place_is_refused_of_a_mapped_task_and_when_overriding_too(decorator):
    refused("command", lambda: decorator(command="x")(fn))
    refused("command", lambda: decorator(fn).override(command="x")())


@pytest.mark.parametrize("decorator", BOTH)
def test_what_is_refused_names_the_task_by_its_id_or_its_function(decorator):
    assert refused("timeout", decorator(timeout=0)(fn)).startswith("Task 'fn': timeout: ")
    assert refused("timeout", decorator(timeout=0, task_id="t")(fn)).startswith("Task 't': timeout: ")
    with TaskGroup("etl"):
        assert refused("timeout", decorator(timeout=0)(fn)).startswith("Task 'etl.fn': timeout: ")


def test_what_is_refused_of_a_function_names_the_task_where_it_is_known():
    def uses_an_import():
        return timedelta(1)

    assert refused("python_callable", sandbox_task, uses_an_import).startswith(
        "Task 'uses_an_import': python"
    )
    assert refused("serializer", sandbox_task(serializer="x", task_id="t"), fn).startswith("Task 't': ser")
    assert refused("python_callable", sandbox_task, functools.partial(fn)).startswith("python_callable: ")
    made = sandbox_task(fn).override(serializer="x")
    assert refused("serializer", made).startswith("Task 'fn': serializer: ")


@pytest.mark.parametrize("name", ["deferrable", "log_output", "append_airflow_env", "end_from_trigger"])
def test_a_yes_or_no_that_is_neither_is_refused(name):
    refused(name, sandbox_command_task(**{name: "maybe"})(fn))


def test_what_a_dag_gives_all_its_tasks_by_default_takes_no_result_from_a_function():
    given = {
        "end_from_trigger": True,
        "wait_for_completion": False,
        "stdin": "x",
        "output_processor": len,
        "retries": 3,
    }
    with DAG("defaults", default_args=given):
        operator = sandbox_task(fn)().operator

    assert (operator.end_from_trigger, operator.wait_for_completion) == (False, True)
    assert (operator.stdin, operator.output_processor, operator.retries) == (None, None, 3)
