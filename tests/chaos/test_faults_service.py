"""A service in trouble: lost answers, gateways, outages, expiry, loss of the sandbox."""

import json
import os
import socket
import time

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_sbx.api import errors
from tests.chaos.conftest import HOST_NAME
from tests.chaos.proxy import Rule, asks_control, lists, starts, streams, writes_input
from tests.chaos.proxy.faults import (
    Act,
    CloseStream,
    CutAfter,
    Delay,
    ExchangeKey,
    Hang,
    LoseAnswer,
    Refuse,
    Reply,
    ResetConnection,
    SpoilBody,
    WearTokens,
    gateway_error,
)
from tests.chaos.runs import Script

GATEWAY = [gateway_error(502), gateway_error(503), gateway_error(504)]
LOST = [ResetConnection, CloseStream, Hang, *GATEWAY]
UNAVAILABLE = Reply(503, {"message": "try later"}, retry_after="1")


def anything(request):
    return True


def follows(request):
    """Whether it is asked for once the process runs."""
    return "/processes/" in request.path and not writes_input(request)


# --- starts ------------------------------------------------------------------------------------


def test_a_start_whose_answer_is_lost_is_found_by_its_key_and_made_once(chaos, monkeypatch):
    # The answer to a start is a stream, which may be silent for a minute; no setting shortens it.
    monkeypatch.setattr("airflow_provider_sbx.client.wire.IDLE_SECONDS", 1.2)
    chaos(lambda run: [Rule(starts, LoseAnswer(run.rng.choice(LOST)), times=1)], request_timeout=1.0)


def test_a_start_that_reads_secrets_and_whose_answer_is_lost_is_made_once(chaos):
    chaos(
        lambda run: [Rule(starts, LoseAnswer(run.rng.choice(LOST)), times=1)],
        request_timeout=1.0,
        secrets={"STORED": "stored"},
    )


def test_a_start_that_takes_longer_than_an_answer_may_is_made_once(chaos):
    # The client has given up and looks for it, while it is still on its way.
    chaos(lambda run: [Rule(starts, Delay(1.0 + run.rng.random()), times=1)], request_timeout=0.7)


def test_a_start_that_a_gateway_swallowed_is_made_once(chaos):
    chaos(lambda run: [Rule(starts, Refuse(run.rng.choice([*GATEWAY, ResetConnection])), times=1)])


def test_a_start_whose_answer_is_lost_while_the_listing_fails_too_is_made_once(chaos):
    def plan(run):
        return [
            Rule(starts, LoseAnswer(run.rng.choice([*GATEWAY, ResetConnection])), times=1),
            Rule(lists, Refuse(run.rng.choice([*GATEWAY, CloseStream])), times=2),
        ]

    chaos(plan)


def test_a_start_that_is_turned_away_for_now_is_made_later(chaos):
    def plan(run):
        busy = Reply(429, {"message": "too many"}, retry_after="1")
        return [Rule(starts, Refuse(busy), times=run.rng.randint(1, 2))]

    chaos(plan)


def test_input_that_is_closed_without_an_answer_is_closed_again(chaos):
    def plan(run):
        fault = run.rng.choice([LoseAnswer, Refuse])(run.rng.choice([*GATEWAY, ResetConnection]))
        return [Rule(writes_input, fault, times=2)]

    chaos(plan)


def _lost_input(run):
    fault = run.rng.choice([LoseAnswer, Refuse])(run.rng.choice([*GATEWAY, ResetConnection]))
    return [Rule(writes_input, Delay(0.3)), Rule(writes_input, fault)]


NEEDS_INPUT = Script(body="cat >/dev/null; sleep 60", expected=[])


def test_input_that_may_be_lost_ends_the_process_and_says_so(chaos):
    for run in chaos(_lost_input, NEEDS_INPUT, succeeds=False, stdin="some input\n", defer_after=20.0):
        assert isinstance(run.error, errors.OutcomeUnknownError), repr(run.error)
        assert "write to process" in str(run.error)


def test_input_that_may_be_lost_ends_the_process_also_where_the_task_is_to_be_deferred(chaos):
    chaos(_lost_input, NEEDS_INPUT, succeeds=False, stdin="some input\n", defer_after=0.0)


# --- outages -----------------------------------------------------------------------------------


def test_bursts_of_gateway_errors_are_waited_out(chaos):
    def plan(run):
        return [
            Rule(asks_control, Refuse(run.rng.choice(GATEWAY)), times=run.rng.randint(1, 2)),
            Rule(streams, CutAfter(4, CloseStream), times=1),
            Rule(follows, Refuse(run.rng.choice(GATEWAY)), times=run.rng.randint(3, 4)),
            Rule(follows, Refuse(run.rng.choice(GATEWAY)), skip=6, times=2),
        ]

    chaos(plan)


def test_a_service_that_asks_for_time_is_given_it(chaos):
    def plan(run):
        busy = Reply(run.rng.choice([429, 503]), {"message": "too many"}, retry_after="1")
        return [
            Rule(streams, CutAfter(4, CloseStream), times=2),
            Rule(follows, Refuse(busy), times=2),
            Rule(asks_control, Refuse(busy), times=1),
        ]

    for run in chaos(plan):
        assert len(run.proxy.requests) < 16, "it asked before its time"


def test_slow_answers_are_waited_for(chaos):
    def plan(run):
        return [Rule(anything, Delay(run.rng.uniform(0.1, 0.5), before=run.rng.random() < 0.5))]

    chaos(plan)


def test_answers_that_arrive_spoilt_are_asked_for_again(chaos):
    spoilt = [
        lambda body: b"",
        lambda body: body[: len(body) // 2],
        lambda body: b"<html><title>Login</title></html>",
    ]

    def plan(run):
        def reads(r):
            return follows(r) and (r.method == "GET" or r.path.endswith("/wait"))

        return [
            Rule(streams, CutAfter(4, CloseStream), times=1),
            Rule(streams, Refuse(gateway_error(502)), skip=1, times=3),
            Rule(reads, SpoilBody(run.rng.choice(spoilt)), times=2),
        ]

    chaos(plan, wait_strategy="poll", poll_interval=0.5)
    chaos(plan)


def test_refused_connections_are_waited_out(chaos):
    def plan(run):
        down = Act(lambda: run.proxy.down_for(run.rng.uniform(0.5, 2.0)))
        return [Rule(writes_input, down, times=1)]

    chaos(plan)


def test_connections_that_are_refused_from_the_beginning_are_waited_out(chaos):
    def plan(run):
        down = Act(lambda: run.proxy.down_for(run.rng.uniform(0.5, 1.5)))
        return [Rule(asks_control, down, times=1), Rule(asks_control, Refuse(ResetConnection), times=1)]

    chaos(plan)


def test_a_name_that_does_not_resolve_for_a_while_is_waited_out(chaos, monkeypatch):
    # At the resolver itself, below aiohttp's and Python's own code.
    resolve, until = socket.getaddrinfo, []

    def getaddrinfo(host, *args, **kwargs):
        if host != HOST_NAME:
            return resolve(host, *args, **kwargs)
        if not until:
            until.append(time.monotonic() + 1.5)
        if time.monotonic() < until[0]:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return resolve("127.0.0.1", *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    def plan(run):
        return [Rule(streams, CutAfter(5, CloseStream))]

    chaos.at(HOST_NAME)(plan)
    assert until


def test_an_outage_that_lasts_fails_the_task_in_time_and_says_that_the_process_may_run_on(chaos):
    def plan(run):
        return [
            Rule(streams, CutAfter(4, CloseStream), times=1),
            Rule(follows, Refuse(run.rng.choice([*GATEWAY, ResetConnection]))),
        ]

    script = Script(lines=400, pause=0.05)
    began = time.monotonic()
    for run in chaos(plan, script, patience=2.0, succeeds=False, leaves_running=True):
        assert isinstance(run.error, errors.ServiceError), repr(run.error)
        assert "may still be running" in str(run.error)
    assert time.monotonic() - began < 60


# --- keys and tokens ---------------------------------------------------------------------------


def test_tokens_that_expire_again_and_again_are_renewed_in_silence(chaos):
    def plan(run):
        return [
            Rule(lambda r: not asks_control(r), WearTokens(run.rng.randint(2, 3))),
            Rule(streams, CutAfter(lambda: run.rng.randint(3, 9), CloseStream)),
        ]

    for run in chaos(plan):
        assert len(run.proxy.tokens) > 1
        assert "401" not in "".join(run.log.notices)


def test_tokens_that_last_for_a_second_are_renewed_in_silence(chaos_on):
    def plan(run):
        return [Rule(streams, CutAfter(lambda: run.rng.randint(3, 9), CloseStream))]

    for run in chaos_on("--token-seconds", "3")(plan, Script(pause=0.06)):
        assert len(run.proxy.tokens) > 1


def test_a_key_that_is_revoked_fails_the_task_for_good_and_says_so(chaos):
    refusal = Reply(401, {"message": "The API key was revoked"})

    def plan(run):
        return [
            Rule(streams, CutAfter(4, CloseStream)),
            Rule(asks_control, Refuse(refusal), skip=1),
            Rule(follows, Refuse(refusal), skip=run.rng.randint(0, 1)),
        ]

    script = Script(lines=400, pause=0.05)
    for run in chaos(plan, script, succeeds=False, leaves_running=True):
        assert isinstance(run.error, AirflowFailException), repr(run.error)
        assert "API key" in str(run.error)


def test_a_key_that_is_exchanged_while_a_deferred_task_waits_loses_nothing(chaos):
    def plan(run):
        def exchange():
            name = f"AIRFLOW_CONN_{run.conn_id.upper()}"
            os.environ[name] = json.dumps(json.loads(os.environ[name]) | {"password": "another-key"})

        if run.path == "worker":
            return []  # it has read the connection, and fails as where a key is revoked
        return [
            Rule(lambda r: not asks_control(r), WearTokens(2)),
            Rule(streams, CutAfter(lambda: run.rng.randint(2, 4), CloseStream)),
            # One for the worker, and one for the trigger, until its token is worn out.
            Rule(asks_control, ExchangeKey(2, exchange, "another-key")),
        ]

    for run in chaos(plan, Script(pause=0.05)):
        exchanged = [text for text in run.log.notices if "names another key by now" in text]
        assert len(exchanged) == (run.path == "trigger")


# --- what is gone ------------------------------------------------------------------------------


def test_a_process_that_is_not_known_any_more_ends_the_wait_and_says_so(chaos):
    gone = Reply(404, {"message": "Process not found", "code": "process_not_found"})

    def plan(run):
        return [Rule(streams, CutAfter(4, CloseStream), times=1), Rule(follows, Refuse(gone))]

    script = Script(lines=400, pause=0.05)
    for run in chaos(plan, script, succeeds=False, leaves_running=True):
        assert isinstance(run.error, AirflowFailException), repr(run.error)
        assert "no longer known to its sandbox" in str(run.error)


@pytest.mark.parametrize("strategy", ["stream", "wait", "poll"])
def test_a_sandbox_that_is_stopped_under_its_process_ends_the_wait_and_says_so(chaos, strategy):
    def plan(run):
        def stop():
            time.sleep(0.8)
            run.box.stop()

        return [
            Rule(writes_input, Act(lambda: run.later(stop)), times=1),
            Rule(streams, CutAfter(lambda: run.rng.randint(4, 20), CloseStream)),
        ]

    script = Script(lines=400, pause=0.05)
    runs = chaos(plan, script, succeeds=False, own_boxes=True, wait_strategy=strategy, poll_interval=0.5)
    # Whichever came first: the end of the process, as the service tells it, or that of the sandbox.
    said = ("killed with its sandbox", "The sandbox was stopped", "is closed (")
    for run in runs:
        assert any(words in str(run.error) for words in said), repr(run.error)


def test_a_process_whose_time_is_up_during_an_outage_is_ended_and_the_task_says_so(chaos):
    def plan(run):
        return [
            Rule(streams, CutAfter(4, CloseStream), times=1),
            Rule(follows, Refuse(run.rng.choice(GATEWAY)), times=4),
        ]

    script = Script(lines=400, pause=0.05)
    for run in chaos(plan, script, succeeds=False, timeout=1.5):
        assert isinstance(run.error, errors.ProcessTimedOutError), repr(run.error)
