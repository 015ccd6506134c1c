"""Event streams and streaming starts, for both twins."""

import httpx
import pytest

from airflow_provider_sbx.api import errors
from airflow_provider_sbx.api.events import Done, Output
from airflow_provider_sbx.api.models import ProcessParameters
from airflow_provider_sbx.client import AsyncSandboxClient
from tests.unit.builders import (
    API_KEY,
    CONTROL,
    PROCESS,
    SANDBOX,
    process_body,
    result_body,
    sse,
    sse_output,
)
from tests.unit.client.twins import Sync, event_stream

P = "/sandbox/processes"
STREAM = ("GET", f"{P}/{PROCESS}/stream")
STARTED = sse("started", process_body())
DONE = sse("done", result_body())
CUT = httpx.ReadError("the line was cut")


def params(command="x"):
    return ProcessParameters(command=command)


def read(twin, **options):
    with twin.reading("stream", SANDBOX, PROCESS, **options) as (_, events):
        return list(events)


def test_a_stream_is_asked_for_from_a_number_and_read_to_its_end(twin, service):
    service.queue(*STREAM, event_stream(sse_output(5, "a\n"), DONE))

    events = read(twin, from_seq=5)

    assert [type(event) for event in events] == [Output, Done]
    assert service.asked() == [f"GET {P}/{PROCESS}/stream?from_seq=5"]
    assert service.requests[-1].headers["accept"] == "text/event-stream"


def test_heartbeats_and_unknown_events_are_passed_over(twin, service):
    body = b": heartbeat\n\n" + sse("resized", {"rows": 3}) + sse_output(1, "a") + b": heartbeat\n\n"
    service.queue(*STREAM, event_stream(body))

    assert len(read(twin)) == 1


def test_an_event_may_come_in_any_pieces(twin, service):
    body = sse_output(1, "h\u00e9\u20ac\n") + DONE
    service.queue(*STREAM, event_stream(*[body[i : i + 1] for i in range(len(body))]))

    first, last = read(twin)

    assert first.data == "h\u00e9\u20ac\n"
    assert last.result.exit_code == 0


def test_a_line_separator_of_unicode_within_output_ends_no_event(twin, service):
    body = (
        'event: output\ndata: {"seq":1,"stream":"stdout","data":"a\u2028b\u0085c","timestamp":1}\n\n'.encode()
    )
    service.queue(*STREAM, event_stream(body))

    (event,) = read(twin)
    assert event.data == "a\u2028b\u0085c"


@pytest.mark.parametrize("cause", [CUT, httpx.ReadTimeout("silent"), httpx.RemoteProtocolError("incomplete")])
def test_a_stream_that_breaks_gives_what_came_and_then_an_error(twin, service, cause):
    service.queue(*STREAM, event_stream(sse_output(1, "a\n"), cause))
    seen = []

    with (
        pytest.raises(errors.TransportError, match="Could not follow"),
        twin.reading("stream", SANDBOX, PROCESS) as (_, events),
    ):
        seen.extend(events)
    assert [event.data for event in seen] == ["a\n"]


def test_a_garbled_event_breaks_the_stream(twin, service):
    service.queue(*STREAM, event_stream(sse_output(1, "a\n"), b"event: output\ndata: {oops\n\n", DONE))

    with pytest.raises(errors.StreamBrokenError):
        read(twin)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (httpx.Response(404, json={"error": "x"}), errors.NotFoundError),
        (httpx.Response(410, json={"error": "Replay window expired"}), errors.ReplayWindowExpiredError),
        (
            httpx.Response(409, json={"error": "x", "code": "sandbox_not_running"}),
            errors.SandboxNotRunningError,
        ),
        (httpx.Response(503, html="<h1>busy"), errors.ResponseError),
        (httpx.Response(200, html="<title>Sign in</title>"), errors.StreamBrokenError),
        (httpx.Response(200, json={}), errors.StreamBrokenError),
        (httpx.ConnectError("refused"), errors.TransportError),
    ],
    ids=str,
)
def test_a_stream_that_does_not_open_is_an_error_and_is_not_opened_again(twin, service, answer, kind):
    service.queue(*STREAM, answer)

    with pytest.raises(kind):
        read(twin)
    assert len(service.asked()) == 1


def test_leaving_a_stream_closes_it(connect, service):
    answer = event_stream(sse_output(1, "a\n"), DONE)
    service.queue(*STREAM, answer)

    with connect(service).reading("stream", SANDBOX, PROCESS):
        pass

    assert answer.is_closed


# --- streaming starts ------------------------------------------------------------------------


def test_a_start_streams_its_events_from_the_first(twin, service):
    service.queue("POST", P, event_stream(STARTED, sse_output(1, "a\n"), DONE))

    with twin.reading("start_streaming", SANDBOX, params()) as (begun, events):
        assert begun.process.id == PROCESS
        assert [type(event) for event in events] == [Output, Done]
    assert service.requests[-1].headers["accept"] == "text/event-stream"


def test_an_older_receiver_that_answers_json_has_started_it_all_the_same(twin, service):
    service.queue("POST", P, {"process": process_body()})

    with twin.reading("start_streaming", SANDBOX, params()) as (begun, _):
        assert begun.process.id == PROCESS
        assert begun.events is None


UNCLEAR = [
    CUT,
    httpx.ReadTimeout("slow"),
    httpx.Response(502, html="<h1>bad gateway"),
    httpx.Response(503, json={"message": "x", "retryable": True}),
    httpx.Response(200, html="<title>Sign in</title>"),
    httpx.Response(200, content=b""),
]
UNCLEAR_STREAMS = [(), (CUT,), (b": heartbeat\n\n", CUT), (DONE,), (b"event: started\ndata: {}\n\n",)]


@pytest.mark.parametrize("answer", UNCLEAR, ids=str)
def test_a_start_without_a_clear_answer_has_an_unknown_outcome_and_is_not_repeated(twin, service, answer):
    service.queue("POST", P, answer)

    with (
        pytest.raises(errors.OutcomeUnknownError, match="start a process in sandbox sb-1"),
        twin.reading("start_streaming", SANDBOX, params()),
    ):
        pass
    assert len(service.asked()) == 1


@pytest.mark.parametrize("chunks", UNCLEAR_STREAMS)
def test_a_stream_that_does_not_begin_with_started_leaves_the_outcome_unknown(twin, service, chunks):
    service.queue("POST", P, event_stream(*chunks))

    with (
        pytest.raises(errors.OutcomeUnknownError),
        twin.reading("start_streaming", SANDBOX, params()),
    ):
        pass


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (httpx.ConnectError("refused"), errors.TransportError),
        (httpx.Response(429, json={"error": "busy"}), errors.ResponseError),
        (httpx.Response(400, json={"error": "no such user"}), errors.ResponseError),
        (httpx.Response(404, json={"error": "x"}), errors.NotFoundError),
    ],
    ids=str,
)
def test_a_clear_refusal_of_a_start_is_told_as_it_is(twin, service, answer, kind):
    service.queue("POST", P, answer)

    with pytest.raises(kind), twin.reading("start_streaming", SANDBOX, params()):
        pass


@pytest.mark.parametrize("trouble", [CUT, httpx.Response(503)], ids=str)
def test_a_start_whose_token_could_not_be_read_did_surely_not_happen(twin, service, trouble):
    service.queue("GET", f"/api/sandbox/{SANDBOX}", trouble)

    with pytest.raises(errors.ServiceError) as caught, twin.reading("start_streaming", SANDBOX, params()):
        pass
    assert caught.value.surely_unsent


def test_a_break_after_the_start_is_no_doubt_about_the_start(service):
    twin = Sync(service)
    service.queue("POST", P, event_stream(STARTED, sse_output(1, "a\n"), CUT))

    with (
        pytest.raises(errors.TransportError),
        twin.reading("start_streaming", SANDBOX, params()) as (_, events),
    ):
        list(events)


async def test_a_break_after_the_start_is_no_doubt_about_the_start_on_a_loop(service):
    async def start_and_read(client):
        async with client.start_streaming(SANDBOX, params()) as begun:
            return [event async for event in begun.events]

    service.queue("POST", P, event_stream(STARTED, sse_output(1, "a\n"), CUT))
    transport = httpx.MockTransport(service.answer_async)
    async with AsyncSandboxClient(API_KEY, CONTROL, transport=transport) as client:
        with pytest.raises(errors.TransportError):
            await start_and_read(client)


def test_what_breaks_after_a_start_is_not_called_a_start(twin, service):
    service.queue("POST", P, event_stream(STARTED, CUT))

    with (
        pytest.raises(errors.TransportError, match=f"follow process {PROCESS}"),
        twin.reading("start_streaming", SANDBOX, params()) as (_, events),
    ):
        list(events)
