"""Which templates a triggerer renders as a worker would."""

from datetime import timedelta

import jinja2
import pytest
from airflow.sdk import DAG

from airflow_provider_sbx.api.models import SandboxSpec
from airflow_provider_sbx.compat import renders_in_triggerer
from airflow_provider_sbx.operators.process import SandboxProcessOperator
from airflow_provider_sbx.operators.rendering import trigger_filters, why_not_in_a_triggerer

pytestmark = pytest.mark.skipif(not renders_in_triggerer(), reason="Airflow renders on workers only")


def why(value):
    return why_not_in_a_triggerer("command", value, trigger_filters())


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        "plain",
        5,
        timedelta(seconds=5),
        b"bytes",
        "{{ ds }} {{ logical_date | ds_nodash }} {{ data_interval_start }}",
        "{{ params.x }} {{ params.get('x', 1) }} {{ var.value.x }} {{ conn.db.password }}",
        "{{ ti.try_number }} {{ task_instance.run_id }} {{ dag_run.conf['x'] }} {{ dag.dag_id }}",
        "{{ macros.ds_add(ds, 1) }} {{ run_id | upper }}",
        "{% for x in range(3) %}{{ loop.index }}{{ x }}{% endfor %}{% set y = ds %}{{ y }}",
        {"A": "{{ ds }}", "B": 1},
        ["{{ ds }}", ("x",)],
        "{{ broken",
    ],
)
def test_these_are_rendered_there_as_on_a_worker(value):
    assert why(value) is None


@pytest.mark.parametrize(
    ("value", "word"),
    [
        ("{{ ti.xcom_pull('a') }}", "'ti'"),
        ("{{ task_instance['xcom_pull']('a') }}", "'task_instance'"),
        ("{% set t = ti %}{{ t.xcom_pull('a') }}", "'ti'"),
        ("{{ my_macro(ds) }}", "'my_macro'"),
        ("{{ my_value }}", "'my_value'"),
        ("{{ ds | my_filter }}", "'my_filter'"),
        ("{{ prev_start_date_success }}", "'prev_start_date_success'"),
        ("{{ outlet_events }}", "'outlet_events'"),
        ("{{ task.retries }}", "'task'"),
        ("{{ dag_run.run_type }}", "'dag_run'"),
        ("{% include 'x.sh' %}", "includes"),
        ({"A": {"B": ["{{ ti.xcom_pull('a') }}"]}}, "'ti'"),
        ({"{{ nobody }}": "x"}, "'nobody'"),
    ],
)
def test_these_are_not_and_it_is_said_why(value, word):
    assert word in why(value)


@pytest.mark.parametrize(
    ("settings", "command", "word"),
    [
        ({"template_undefined": jinja2.Undefined}, "true", "template_undefined"),
        ({"jinja_environment_kwargs": {"trim_blocks": True}}, "true", "jinja_environment_kwargs"),
        ({"render_template_as_native_obj": True}, "true", "native"),
        ({"user_defined_filters": {"upper": str.lower}}, "{{ run_id | upper }}", "'upper'"),
    ],
)
def test_a_dag_with_settings_of_its_own_is_rendered_on_a_worker(settings, command, word):
    with DAG("d", **settings):
        task = SandboxProcessOperator(task_id="t", command=command, start_from_trigger=True)

    assert task.start_from_trigger is False
    assert word in task._why_on_a_worker


@pytest.mark.parametrize(("name", "starts"), [("python", True), ("{{ ds }}", False)])
def test_a_spec_as_an_object_needs_no_worker(name, starts):
    spec = SandboxSpec(image_name=name)
    task = SandboxProcessOperator(task_id="t", command="true", sandbox=spec, start_from_trigger=True)

    assert task.start_from_trigger is starts


@pytest.mark.parametrize(
    ("options", "dag_options", "there"),
    [
        ({}, {}, True),
        ({"email": "a@b.example"}, {}, False),
        ({}, {"fail_fast": True}, False),
    ],
)
def test_a_failure_ends_there_only_where_a_worker_would_do_no_more(options, dag_options, there):
    with DAG("d", **dag_options):
        task = SandboxProcessOperator(task_id="t", command="true", start_from_trigger=True, **options)

    assert task.start_trigger_args.trigger_kwargs["ends"]["fails"] is there


def test_a_worker_that_is_to_end_the_task_after_all_stops_its_sandbox():
    own, named = (
        SandboxProcessOperator(task_id="t", command="true", start_from_trigger=True, **where)
        for where in ({"sandbox": {"image_name": "python"}}, {"sandbox_id": "sb-1"})
    )

    assert own.start_trigger_args.next_kwargs == {"owns_sandbox": True}
    assert named.start_trigger_args.next_kwargs == {"owns_sandbox": False}


def test_so_is_a_task_that_renders_native_objects():
    task = SandboxProcessOperator(
        task_id="t", command="true", start_from_trigger=True, render_template_as_native_obj=True
    )

    assert task.start_from_trigger is False


def test_the_result_of_another_task_is_not():
    with DAG("d"):
        first = SandboxProcessOperator(task_id="first", command="true")

    assert "result of another task" in why(first.output)
    assert "result of another task" in why({"A": first.output["x"]})
