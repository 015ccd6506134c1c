"""Making and stopping a sandbox, over a service that stands where the network would."""

import json
from types import SimpleNamespace

import httpx
import pytest
from airflow.exceptions import AirflowFailException, AirflowNotFoundException

from airflow_provider_sbx.api import errors
from airflow_provider_sbx.api.models import SandboxSpec
from airflow_provider_sbx.operators.sandbox import (
    SandboxCreateOperator,
    SandboxOptions,
    SandboxStopOperator,
)
from tests.unit.builders import OWN_HOST, SANDBOX, sandbox_body

CREATE, READ = ("POST", "/api/sandbox"), ("GET", f"/api/sandbox/{SANDBOX}")
STOP = ("PUT", f"/api/sandbox/{SANDBOX}/stop")
STOPS = f"PUT {STOP[1]}"
MADE = "POST /api/sandbox"


def create(**options):
    return SandboxCreateOperator(**{"task_id": "create", "image_name": "python"} | options)


def stop(**options):
    return SandboxStopOperator(**{"task_id": "stop", "sandbox_id": SANDBOX} | options)


def refused(make, **options):
    with pytest.raises(errors.InvalidParameterError) as caught:
        make(**options)
    return caught.value


def bodies(network):
    return [json.loads(r.content) for r in network.requests if (r.method, r.url.path) == CREATE]


class LogOf:
    """What a task says, without Airflow's logging around it."""

    def __init__(self, monkeypatch, task):
        self.lines = []
        say = SimpleNamespace(
            info=lambda text, *args: self.lines.append(text % args),
            warning=lambda text, *args: self.lines.append(text % args),
        )
        monkeypatch.setattr(type(task), "log", say)

    def __contains__(self, text):
        return any(text in line for line in self.lines)


# --- making ----------------------------------------------------------------------------------


def test_the_result_is_the_id_and_the_addresses_are_pushed_and_no_token_is(network, context_of):
    network.queue(*CREATE, sandbox_body(token="very-secret-token"))
    context = context_of()

    assert create().execute(context) == SANDBOX
    assert context["ti"].pushed == {
        "sandbox_id": SANDBOX,
        "session_url": "https://app.test/sb-1",
        "runtime_url": OWN_HOST,
    }


def test_without_xcom_nothing_is_pushed(network, context_of):
    network.queue(*CREATE, sandbox_body())
    context = context_of()
    create(do_xcom_push=False).execute(context)

    assert context["ti"].pushed == {}


def test_the_log_says_what_was_made_and_how_long_it_lives_and_no_token(network, context_of, monkeypatch):
    network.queue(*CREATE, sandbox_body(token="very-secret-token"))
    task = create(timeout_minutes=20)
    log = LogOf(monkeypatch, task)
    task.execute(context_of())

    assert "Made sandbox sb-1 from image python; it ends after 20 minutes" in log
    assert "https://app.test/sb-1" in log
    assert "very-secret-token" not in log


def test_everything_that_was_asked_for_is_sent(network, context_of):
    network.queue(*CREATE, sandbox_body())
    create(
        image_id="i-1",
        region="us",
        timeout_minutes="30",
        cpu=2,
        memory_mib="1024",
        disk_mib=2048,
        enable_recording=False,
        exposed_ports=[{"port": 8080, "auth": True}],
        mounts={"/data": {"id": "vol-1", "type": "ro"}},
        allow_internet_access=False,
        allow_out=["mirror.example.com"],
        deny_out=["10.0.0.0/8"],
        secrets={"TOKEN": "stored"},
        vault="team",
    ).execute(context_of())

    assert bodies(network) == [
        {
            "imageName": "python",
            "imageId": "i-1",
            "region": "us",
            "timeoutMinutes": 30,
            "vcpus": 2,
            "memMiB": 1024,
            "diskSizeMiB": 2048,
            "enableRecording": False,
            "exposedPorts": [{"port": 8080, "auth": True}],
            "mounts": {"/data": {"id": "vol-1", "type": "ro"}},
            "allowInternetAccess": False,
            "allowOut": ["mirror.example.com"],
            "denyOut": ["10.0.0.0/8"],
            "secrets": {"TOKEN": {"name": "stored"}},
            "vault": "team",
        }
    ]


def test_every_create_option_is_a_templated_parameter():
    options = set(SandboxSpec.model_fields)

    assert set(SandboxOptions.__annotations__) == options
    assert set(SandboxCreateOperator.template_fields) == options | {"sbx_conn_id"}
    assert all(hasattr(create(), name) for name in options)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (httpx.Response(404, json={"message": "no such image"}), AirflowFailException),
        (httpx.Response(401, json={"message": "no"}), AirflowFailException),
        (httpx.Response(422, json={"message": "no such region"}), AirflowFailException),
        (httpx.ReadError("the line was cut"), errors.TransportError),
    ],
)
def test_what_a_retry_can_not_mend_fails_for_good_and_the_rest_is_left_to_retries(
    network, context_of, answer, kind
):
    network.queue(*CREATE, answer)

    with pytest.raises(kind):
        create().execute(context_of())
    assert network.asked() == [MADE]  # never repeated by itself: it may have happened


def test_a_connection_that_is_not_there_is_told_and_a_retry_may_mend_it(context_of):
    with pytest.raises(AirflowNotFoundException, match="nobody"):
        create(sbx_conn_id="nobody").execute(context_of())


# --- once ------------------------------------------------------------------------------------


def test_a_retry_after_a_lost_worker_goes_on_with_the_sandbox_that_it_made(network, context_of):
    network.queue(*CREATE, sandbox_body())
    create().execute(context_of(1))
    context = context_of(2)

    assert create().execute(context) == SANDBOX
    assert network.asked() == [MADE]
    assert context["ti"].pushed["session_url"] == "https://app.test/sb-1"


@pytest.mark.parametrize(
    "gone",
    [
        httpx.Response(404, json={"error": "x"}),
        httpx.Response(200, json=sandbox_body(status="closed", token=None)),
    ],
)
def test_a_retry_makes_another_where_that_one_is_gone(network, context_of, gone):
    network.queue(*CREATE, sandbox_body(), sandbox_body())
    create().execute(context_of(1))
    network.queue(*READ, gone)
    create().execute(context_of(2))

    assert network.asked() == [MADE, MADE]


def test_a_task_that_a_person_cleared_makes_another(network, context_of):
    network.queue(*CREATE, sandbox_body(), sandbox_body())
    create().execute(context_of(1))
    create().execute(context_of(2, max_tries=1))

    assert network.asked() == [MADE, MADE]


def test_without_a_state_store_each_try_makes_its_own(network, context_of):
    network.queue(*CREATE, sandbox_body(), sandbox_body())
    create().execute(context_of(1, with_store=False))
    create().execute(context_of(2, with_store=False))

    assert network.asked() == [MADE, MADE]


def test_a_sandbox_whose_id_could_not_be_told_is_stopped_since_it_has_no_teardown(network, context_of):
    network.queue(*CREATE, sandbox_body())
    network.queue(*STOP, {"success": True})
    context = context_of()

    def lost(key, value):
        raise ConnectionError("the API server is away")

    context["ti"].xcom_push = lost
    with pytest.raises(ConnectionError):
        create().execute(context)
    assert network.asked() == [MADE, STOPS]


def test_a_task_that_is_killed_stops_what_it_has_made(network, context_of):
    network.queue(*CREATE, sandbox_body())
    network.queue(*STOP, {"success": True})
    task = create()
    task.execute(context_of())
    task.on_kill()

    assert network.asked() == [MADE, STOPS]


def test_one_that_is_killed_amid_the_making_stops_it_as_soon_as_it_is_there(network, context_of):
    task = create()

    def killed():
        task.on_kill()
        return sandbox_body()

    network.queue_late(*CREATE, killed)
    network.queue(*STOP, {"success": True})

    with pytest.raises(errors.SandboxError, match="as its task was"):
        task.execute(context_of())
    assert network.asked() == [MADE, STOPS]


def test_one_that_is_killed_while_its_id_is_told_is_no_success(network, context_of):
    network.queue(*CREATE, sandbox_body())
    network.queue(*STOP, *[{"success": True}] * 5)
    task, context = create(), context_of()
    context["ti"].xcom_push = lambda key, value: task.on_kill()

    with pytest.raises(errors.SandboxError, match="as its task was"):
        task.execute(context)


# --- stopping --------------------------------------------------------------------------------


def test_a_sandbox_is_stopped_before_anything_is_told_of_it(network, context_of):
    network.queue("GET", f"/api/sandbox/{SANDBOX}", sandbox_body())
    network.queue(*STOP, {"success": True})
    context = context_of()

    def away(key, value):
        raise ConnectionError("Airflow is away")

    context["ti"].xcom_push = away
    with pytest.raises(ConnectionError):
        stop().execute(context)
    assert network.asked()[-1] == STOPS


def test_a_sandbox_is_stopped(network, context_of):
    network.queue(*STOP, {"success": True})

    assert stop().execute(context_of()) is None
    assert network.asked() == [STOPS]


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(404, json={"error": "no such sandbox"}),
        httpx.Response(409, json={"error": "x", "code": "sandbox_not_running"}),
    ],
)
def test_to_stop_a_sandbox_that_is_gone_is_a_success_and_says_so(network, context_of, monkeypatch, answer):
    network.queue(*STOP, answer)
    task = stop()
    log = LogOf(monkeypatch, task)
    task.execute(context_of())

    assert "Sandbox sb-1 is gone already: nothing to stop." in log


def test_a_stop_that_is_refused_fails(network, context_of):
    network.queue(*STOP, httpx.Response(403, json={"message": "scope"}))

    with pytest.raises(AirflowFailException, match="scope"):
        stop().execute(context_of())


@pytest.mark.parametrize("bad", [None, "", " ", 5, "None"])
def test_no_id_is_never_taken_for_the_connections_own_sandbox(network, context_of, monkeypatch, bad):
    own = {"conn_type": "sbx", "password": "k", "extra": {"sandbox_id": "the-teams-own"}}
    monkeypatch.setenv("AIRFLOW_CONN_SBX_DEFAULT", json.dumps(own))

    assert refused(stop, sandbox_id=bad).parameter == "sandbox_id"
    task = stop(sandbox_id="{{ x }}")
    task.sandbox_id = bad  # what the template came to
    with pytest.raises(AirflowFailException, match=r"create\.output"):
        task.execute(context_of())
    assert network.requests == []


# --- what is refused at parse time -----------------------------------------------------------


def test_an_image_and_a_snapshot_are_one_too_many_by_their_names_values_and_the_remedy():
    error = refused(create, snapshot_name="nightly")

    assert error.parameter == "image_name, snapshot_name"
    assert "'python', 'nightly'" in str(error)
    assert error.remedy.startswith("Give image_name to start from an image, or snapshot_name")


def test_neither_an_image_nor_a_snapshot_is_too_little():
    assert refused(create, image_name=None).parameter == "image_name, snapshot_name"


@pytest.mark.parametrize(
    ("option", "parameter"),
    [
        ({"cpu": 2}, "cpu"),
        ({"memory_mib": 512, "disk_mib": 512}, "memory_mib, disk_mib"),
        ({"secrets": {"A": "n"}}, "secrets"),
        ({"cpu": "{{ params.cpu }}"}, "cpu"),
    ],
)
def test_what_a_snapshot_brings_itself_is_refused_beside_it(option, parameter):
    error = refused(create, image_name=None, snapshot_name="nightly", **option)

    assert error.parameter == parameter
    assert "'nightly'" in error.problem
    assert "Leave it out" in error.remedy


@pytest.mark.parametrize(
    ("option", "parameter"),
    [
        ({"image_name": "{{ x }}", "snapshot_name": "{{ y }}"}, "image_name, snapshot_name"),
        ({"snapshot_id": "s"}, "snapshot_id"),
        ({"timeout_minutes": 0}, "timeout_minutes"),
        ({"timeout_minutes": "soon"}, "timeout_minutes"),
        ({"cpu": -1}, "cpu"),
        ({"region": "\0"}, "region"),
        ({"exposed_ports": [{"port": 70000}]}, "exposed_ports.0.port"),
        ({"mounts": {"/data": {"id": "v", "type": "rx"}}}, "mounts./data.type"),
        ({"secrets": {"1A": "n"}}, "secrets.1A.[key]"),
    ],
)
def test_an_option_that_can_not_be_right_is_refused_by_its_name(option, parameter):
    assert refused(create, **option).parameter == parameter


@pytest.mark.parametrize(
    "options",
    [
        {"image_name": "{{ x }}"},
        {"image_name": None, "snapshot_name": "{{ x }}"},
        {"timeout_minutes": "{{ x }}", "cpu": "{{ x }}", "enable_recording": True},
        {"exposed_ports": [{"port": "{{ x }}"}], "mounts": {"/{{ x }}": {"id": "{{ x }}"}}},
        {"allow_out": ["{{ x }}"], "secrets": {"A": "{{ x }}"}},
    ],
)
def test_what_is_not_known_yet_is_checked_when_it_is(options):
    create(**options)


def test_a_template_that_comes_to_nonsense_is_told_before_anything_is_made(network, context_of):
    task = create(cpu="{{ x }}")
    task.cpu = "many"

    with pytest.raises(AirflowFailException, match=r"^cpu: "):
        task.execute(context_of())
    assert network.requests == []


@pytest.mark.parametrize("make", [create, stop])
@pytest.mark.parametrize("bad", [None, ""])
def test_a_connection_without_a_name_is_refused(make, bad):
    assert refused(make, sbx_conn_id=bad).parameter == "sbx_conn_id"


def test_what_is_refused_names_the_task():
    assert str(refused(create, cpu=0)).startswith("Task 'create': cpu: ")
    assert str(refused(stop, sandbox_id="")).startswith("Task 'stop': sandbox_id: '' is not the id")
