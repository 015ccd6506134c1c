"""A group's sandbox: made before all of its tasks, stopped after all of them, and named to each."""

from datetime import timedelta

import pytest
from airflow.sdk import DAG, TaskGroup, task, task_group
from airflow.serialization import serialized_objects

from airflow_provider_sbx.api.errors import InvalidParameterError
from airflow_provider_sbx.operators.process import (
    SandboxExecOperator,
    SandboxProcessOperator,
    SandboxSignalOperator,
)
from airflow_provider_sbx.operators.sandbox_group import sandbox_group
from airflow_provider_sbx.sensors.process import SandboxProcessSensor

ID = "{{ ti.xcom_pull(task_ids='etl.create_sandbox', map_indexes=-1) }}"


@pytest.fixture
def dag():
    with DAG("dag") as dag:
        yield dag


def group(**options):
    return sandbox_group("etl", **{"image_name": "python"} | options)


def run(task_id, **options):
    return SandboxExecOperator(**{"task_id": task_id, "command": "x"} | options)


def upstream(task):
    return {name.removeprefix("etl.") for name in task.upstream_task_ids}


# --- its place -------------------------------------------------------------------------------


def test_the_sandbox_is_a_setup_and_its_stop_the_teardown_of_it(dag):
    with group(region="us", sbx_conn_id="mine") as sbx:
        run("a")

    assert (sbx.create.is_setup, sbx.stop.is_teardown) == (True, True)
    assert sbx.stop.trigger_rule == "all_done_setup_success"
    assert not sbx.stop.on_failure_fail_dagrun
    assert (sbx.create.image_name, sbx.create.region) == ("python", "us")
    assert {sbx.create.sbx_conn_id, sbx.stop.sbx_conn_id} == {"mine"}
    assert sbx.stop.sandbox_id == ID
    assert {"etl.create_sandbox", "etl.a", "etl.stop_sandbox"} == {t.task_id for t in dag.tasks}


def test_every_task_is_after_the_making_and_the_stop_after_every_task(dag):
    with group() as sbx:
        a, b = run("a"), run("b")
        with TaskGroup("inner"):
            c = run("c")
        a >> c

    assert upstream(a) == upstream(b) == {"create_sandbox"}
    assert upstream(c) == {"a"}
    assert upstream(sbx.stop) == {"create_sandbox", "b", "inner.c"}


def test_a_task_that_depends_on_one_outside_is_after_the_making_as_well(dag):
    before = run("before")
    with group():
        a = run("a")
        before >> a

    assert upstream(a) == {"before", "create_sandbox"}


def test_the_stop_waits_for_a_task_beside_one_that_fails(dag):
    """`last` is done as soon as one of the two has failed, while the other still runs."""
    with group() as sbx:
        a, b, last = run("a"), run("b"), run("last")
        [a, b] >> last

    assert upstream(sbx.stop) == {"create_sandbox", "a", "b", "last"}


def test_the_stop_waits_for_a_task_before_one_that_waits_for_nothing(dag):
    with group() as sbx:
        run("a") >> run("b", trigger_rule="always")

    assert upstream(sbx.stop) == {"create_sandbox", "a", "b"}


def test_what_follows_the_group_follows_its_work_and_does_not_wait_for_the_stop(dag):
    @task
    def after():
        """Do something."""

    before = run("before")
    with group() as sbx:
        run("a")
    done = after()
    before >> sbx >> done

    assert upstream(sbx.create) == {"before"}
    assert upstream(done.operator) == {"a"}


def test_a_group_without_tasks_makes_a_sandbox_and_stops_it(dag):
    with group() as sbx:
        pass

    assert upstream(sbx.stop) == {"create_sandbox"}


# --- its id ----------------------------------------------------------------------------------


def test_each_task_that_names_no_sandbox_gets_the_groups(dag):
    with group(sbx_conn_id="mine") as sbx:
        a = run("a")
        with TaskGroup("inner", default_args={"retries": 2}):
            b = run("b")
        start = SandboxProcessOperator(task_id="start", command="x", wait_for_completion=False)
        wait = SandboxProcessSensor(task_id="wait", process=start.output)
        end = SandboxSignalOperator(task_id="end", process=start.output)

    assert {t.sandbox_id for t in (a, b, start, wait, end)} == {sbx.sandbox_id} == {ID}
    assert {t.sbx_conn_id for t in (a, b, start, wait, end)} == {"mine"}
    assert b.retries == 2


def test_a_mapped_task_gets_it_for_each_of_its_instances(dag):
    with group() as sbx:
        mapped = SandboxExecOperator.partial(task_id="m").expand(command=["a", "b"])

    assert mapped.unmap({"command": "a"}).sandbox_id == ID
    assert upstream(mapped) == {"create_sandbox"}
    assert upstream(sbx.stop) == {"create_sandbox", "m"}


def test_each_instance_of_a_mapped_group_has_a_sandbox_of_its_own(dag):
    @task_group
    def each(name):
        with sandbox_group("etl", image_name="python") as sbx:
            run("a", command=name)
        assert sbx.sandbox_id == (
            "{{ ti.xcom_pull(task_ids='each.etl.create_sandbox', map_indexes=ti.map_index) }}"
        )

    each.expand(name=["a", "b"])


def test_a_task_may_name_another_or_have_its_own(dag):
    with group():
        other = run("a", sandbox_id="sb-9")
        own = run("b", sandbox_id=None, sandbox={"image_name": "node"})

    assert (other.sandbox_id, own.sandbox_id) == ("sb-9", None)


def test_default_args_of_ones_own_stand_beside_the_groups(dag):
    mine = {"retries": 3, "cwd": "/w"}
    with group(default_args=mine):
        a = run("a")

    assert (a.retries, a.cwd, a.sandbox_id) == (3, "/w", ID)
    assert mine == {"retries": 3, "cwd": "/w"}


def test_the_dags_default_connection_is_the_groups_as_well():
    with DAG("dag", default_args={"sbx_conn_id": "mine"}), group() as sbx:
        a = run("a")

    assert {t.sbx_conn_id for t in (sbx.create, a, sbx.stop)} == {"mine"}


def test_the_id_is_pushed_also_where_the_tasks_push_nothing(dag):
    with group(default_args={"do_xcom_push": False}) as sbx:
        a = run("a")

    assert (sbx.create.do_xcom_push, a.do_xcom_push) == (True, False)


def test_two_groups_have_a_sandbox_each(dag):
    with group() as outer, sandbox_group("inner", snapshot_name="s") as inner:
        a = run("a")

    assert a.sandbox_id == inner.sandbox_id != outer.sandbox_id
    assert upstream(inner.create) == {"create_sandbox"}


# --- how long it lives -----------------------------------------------------------------------

MINUTE = timedelta(minutes=1)


def minutes(*tasks, **options):
    with group(**options) as sbx:
        for number, (kind, kwargs) in enumerate(tasks):
            kind(**{"task_id": f"t{number}"} | kwargs)
    return sbx.create.timeout_minutes


def runs(**kwargs):
    return SandboxExecOperator, {"command": "x"} | kwargs


@pytest.mark.parametrize(
    ("tasks", "lives"),
    [
        ([runs(timeout=MINUTE)], 1 + 1 + 10),
        ([runs(timeout=5 * MINUTE, execution_timeout=3 * MINUTE)], 3 + 1 + 10),
        ([runs(timeout=60), runs(execution_timeout=4 * MINUTE)], 1 + 1 + 4 + 1 + 10),
        ([runs(timeout="90")], 3 + 10),  # begun minutes count
        ([runs(timeout=MINUTE, retries=2, retry_delay=5 * MINUTE)], 3 * (1 + 1) + 2 * 5 + 10),
        ([(SandboxSignalOperator, {"process_id": "p"})], 1 + 1 + 10),
        ([(SandboxSignalOperator, {"process_id": "p", "kill_grace": 120})], 2 + 1 + 10),
        ([(SandboxProcessOperator, {"command": "x", "wait_for_completion": False})], 1 + 1 + 10),
        ([(SandboxProcessSensor, {"process_id": "p", "timeout": 600})], 10 + 1 + 10),
        ([], 10),
        ([runs()], None),
        ([runs(timeout=MINUTE), runs()], None),
        ([runs(timeout="{{ x }}")], None),
        ([runs(timeout="{{ x }}", execution_timeout=MINUTE)], 1 + 1 + 10),
        ([runs(timeout=MINUTE, retries=1, retry_exponential_backoff=True)], None),
    ],
)
def test_it_lives_as_long_as_its_tasks_may_take_one_after_another(dag, tasks, lives):
    assert minutes(*tasks) == lives


def test_it_lives_as_long_as_it_is_told_to_whatever_its_tasks_may_take(dag):
    assert minutes(runs(timeout=MINUTE), timeout_minutes=3) == 3


def test_nothing_limits_mapped_tasks_and_those_of_others(dag):
    with group() as sbx:
        SandboxExecOperator.partial(task_id="m", timeout=60).expand(command=["a", "b"])
    assert sbx.create.timeout_minutes is None

    @task
    def anything():
        """Do something."""

    with sandbox_group("other", image_name="python") as sbx:
        anything()
    assert sbx.create.timeout_minutes is None


# --- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "parameter"),
    [
        ({"snapshot_name": "s"}, "image_name, snapshot_name"),
        ({"image_name": None}, "image_name, snapshot_name"),
        ({"cpu": 0}, "cpu"),
    ],
)
def test_a_sandbox_that_can_not_be_is_refused_at_parse_time(dag, options, parameter):
    with pytest.raises(InvalidParameterError) as caught:
        group(**options)
    assert caught.value.parameter == parameter


def test_what_is_refused_names_the_task_that_makes_the_sandbox(dag):
    with pytest.raises(InvalidParameterError, match=r"^Task 'etl\.create_sandbox': cpu: "):
        group(cpu=0)


def test_a_time_that_no_sandbox_can_have_names_the_task_that_asks_for_it(dag):
    with pytest.raises(InvalidParameterError, match=r"^Task 'etl\.a': timeout: "), group():
        run("a", execution_timeout=timedelta(0))


def test_an_option_that_there_is_not_is_refused(dag):
    with pytest.raises(TypeError, match="image"):
        group(image="python")


def test_a_dag_with_a_group_can_be_serialized():
    # Under another name since Airflow 3.2.
    serialization = getattr(serialized_objects, "DagSerialization", serialized_objects.SerializedDAG)
    with DAG("dag") as dag, group():
        run("a", timeout=60)

    again = serialization.from_dict(serialization.to_dict(dag))

    made = again.get_task("etl.create_sandbox")
    assert (made.is_setup, made.timeout_minutes) == (True, 12)
    assert set(again.task_group.children["etl"].children) == {
        "etl.create_sandbox",
        "etl.a",
        "etl.stop_sandbox",
    }


def test_what_default_args_say_of_secrets_is_for_the_commands_and_not_for_the_images_own():
    given = {"secrets": {"TOKEN": "db"}}
    with DAG("defaults", default_args=given), group() as sbx:
        task = run("a")
    with DAG("own"), group(secrets={"A": "b"}) as own:
        run("a")

    assert (sbx.create.secrets, task.secrets) == (None, given["secrets"])
    assert own.create.secrets == {"A": "b"}


def test_default_args_that_no_snapshot_takes_do_not_keep_a_group_from_one():
    with DAG("defaults", default_args={"vault": "prod"}), sandbox_group("etl", snapshot_name="s") as sbx:
        task = run("a")

    assert (sbx.create.vault, task.vault) == (None, "prod")
