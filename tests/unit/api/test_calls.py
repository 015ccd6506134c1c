import base64

import pytest

from airflow_provider_sbx.api import calls
from airflow_provider_sbx.api.errors import InvalidParameterError
from airflow_provider_sbx.api.models import ProcessParameters, ProcessStatus, SandboxSpec
from airflow_provider_sbx.api.planes import Plane

PARAMS = ProcessParameters(command="echo hunter2", env={"A": "hunter2"})
SPEC = SandboxSpec(image_name="python")

RUNTIME = [
    (calls.exec_process(PARAMS, longest_seconds=5), "POST", "/sandbox/exec", False),
    (calls.start_process(PARAMS), "POST", "/sandbox/processes", False),
    (calls.get_process("p-1"), "GET", "/sandbox/processes/p-1", True),
    (calls.list_processes(), "GET", "/sandbox/processes", True),
    (calls.wait("p-1", timeout_seconds=3), "POST", "/sandbox/processes/p-1/wait", True),
    (calls.stream("p-1"), "GET", "/sandbox/processes/p-1/stream", True),
    (calls.write_stdin("p-1", "x"), "POST", "/sandbox/processes/p-1/stdin", False),
    (calls.send_signal("p-1", "TERM"), "POST", "/sandbox/processes/p-1/signal", True),
    (calls.kill_process("p-1"), "DELETE", "/sandbox/processes/p-1", True),
]
CONTROL = [
    (calls.start_process_with_secrets("sb-1", PARAMS), "POST", "/sandbox/sb-1/processes", False),
    (calls.create_sandbox(SPEC), "POST", "/sandbox", False),
    (calls.get_sandbox("sb-1"), "GET", "/sandbox/sb-1", True),
    (calls.stop_sandbox("sb-1"), "PUT", "/sandbox/sb-1/stop", True),
    (calls.list_sandboxes(), "GET", "/sandboxes", True),
    (calls.list_images(), "GET", "/images", True),
    (calls.list_snapshots(), "GET", "/snapshots", True),
]


@pytest.mark.parametrize(("call", "method", "path", "repeatable"), RUNTIME + CONTROL)
def test_each_operation_has_its_method_and_path_and_may_be_repeated_only_where_that_is_safe(
    call, method, path, repeatable
):
    assert (call.method, call.path, call.repeatable) == (method, path, repeatable)


def test_each_operation_goes_to_its_plane():
    assert {call.plane for call, *_ in RUNTIME} == {Plane.RUNTIME}
    assert {call.plane for call, *_ in CONTROL} == {Plane.CONTROL}


@pytest.mark.parametrize("call", [call for call, *_ in RUNTIME + CONTROL])
def test_what_a_command_holds_stands_in_no_repr(call):
    assert "hunter2" not in repr(call)


@pytest.mark.parametrize("bad", ["", "  ", None, 5, ".", ".."])
def test_what_is_no_id_is_refused_by_the_parameters_name(bad):
    with pytest.raises(InvalidParameterError) as caught:
        calls.get_process(bad)
    assert caught.value.parameter == "process_id"
    with pytest.raises(InvalidParameterError) as caught:
        calls.get_sandbox(bad)
    assert caught.value.parameter == "sandbox_id"


def test_an_id_can_not_leave_its_place_in_the_path():
    assert calls.get_process("../a?b#c").path == "/sandbox/processes/..%2Fa%3Fb%23c"


def test_the_stream_from_the_beginning_names_no_number():
    assert calls.stream("p-1").query == {}
    assert calls.stream("p-1", from_seq=1).query == {}
    assert calls.stream("p-1", from_seq=2).query == {"from_seq": "2"}


def test_a_listing_narrows_by_what_is_given():
    assert calls.list_processes(
        status="running", limit=5, cursor="c", created_after=1, created_before=2
    ).query == {
        "status": "running",
        "limit": "5",
        "cursor": "c",
        "created_after": "1",
        "created_before": "2",
    }
    several = calls.list_processes(status=[ProcessStatus.QUEUED, "running"])
    assert several.query == {"status": "queued,running"}
    assert calls.list_processes(status=[]).query == {}
    assert calls.list_sandboxes(status="active", page=2, limit=3, start=4, end=5, search="x").query == {
        "status": "active",
        "page": "2",
        "limit": "3",
        "start": "4",
        "end": "5",
        "search": "x",
    }


def test_a_wait_is_held_longer_than_the_receiver_holds_it():
    call = calls.wait("p-1", timeout_seconds=2.5)

    assert call.body == {"timeoutMs": 2500, "timeout_sec": None}
    assert call.held_seconds > 2.5


def test_a_wait_of_no_time_is_not_sent_as_0_which_means_the_receivers_default():
    assert calls.wait("p-1", timeout_seconds=0).body["timeoutMs"] == 1


def test_text_and_bytes_are_written_and_the_end_is_told():
    assert calls.write_stdin("p", "hé").body == {"eof": False, "data": "hé", "encoding": "utf8"}
    assert calls.write_stdin("p", b"\xff\x00", eof=True).body == {
        "eof": True,
        "data": base64.b64encode(b"\xff\x00").decode(),
        "encoding": "base64",
    }
    assert calls.write_stdin("p", eof=True).body == {"eof": True}


def test_only_closing_the_input_may_be_repeated():
    assert calls.write_stdin("p", eof=True).repeatable
    assert not calls.write_stdin("p", "", eof=True).repeatable


def test_writing_nothing_is_a_mistake():
    with pytest.raises(InvalidParameterError) as caught:
        calls.write_stdin("p")

    assert caught.value.parameter == "data"


@pytest.mark.parametrize(("written", "sent"), [("TERM", "TERM"), ("sigkill", "KILL"), ("SIGHUP", "HUP")])
def test_a_signal_may_be_written_as_people_do(written, sent):
    assert calls.send_signal("p", written).body == {"signal": sent}


@pytest.mark.parametrize("bad", ["BOOM", "", 9, None])
def test_an_unknown_signal_is_refused_by_the_parameters_name(bad):
    with pytest.raises(InvalidParameterError) as caught:
        calls.send_signal("p", bad)

    assert caught.value.parameter == "signal"


def test_a_one_shot_command_is_given_the_time_it_may_take():
    assert calls.exec_process(PARAMS, longest_seconds=77).held_seconds == 77
