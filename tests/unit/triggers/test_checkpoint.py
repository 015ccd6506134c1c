"""How far a trigger has logged, kept where another triggerer finds it."""

import asyncio

import httpx
import pytest

from airflow_provider_sbx.api.events import Output
from airflow_provider_sbx.api.following import Following
from airflow_provider_sbx.compat import push
from airflow_provider_sbx.triggers.checkpoint import (
    CHECKPOINT_BYTES,
    CHECKPOINT_EVENTS,
    CHECKPOINT_SECONDS,
    XCOM_KEY,
    Checkpoint,
)
from tests.unit.builders import PROCESS, result_body, sse, sse_output, until
from tests.unit.client.twins import event_stream, held_stream
from tests.unit.triggers.conftest import of_a_task
from tests.unit.triggers.test_process import STREAM, fired


@pytest.fixture(autouse=True)
def _connection(monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_SBX_DEFAULT", '{"conn_type": "sbx", "password": "key"}')


LONG_AGO = 1_700_000_000.0


def checkpoint_of(found, machine=None, *, age=CHECKPOINT_SECONDS):
    made = Checkpoint(found, PROCESS, machine or Following(PROCESS))
    made._at -= age
    return made


def machine_at(events, text="x\n"):
    machine = Following(PROCESS)
    for seq in range(1, events + 1):
        machine.event(Output(seq=seq, stream="stdout", data=text, timestamp=seq), 0.0)
    return machine


async def noted(checkpoint, machine):
    checkpoint.offer(machine)
    await asyncio.sleep(0)
    await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("events", "text"), [(CHECKPOINT_EVENTS, "x\n"), (1, "x" * (CHECKPOINT_BYTES - 1) + "\n")]
)
async def test_much_output_is_noted_and_found_by_the_next_triggerer(supervisor, events, text):
    machine = machine_at(events, text)

    await noted(checkpoint_of(of_a_task()), machine)

    assert await checkpoint_of(of_a_task()).load() == machine.state()


async def test_little_output_is_not_noted_since_it_is_soon_read_again(supervisor):
    await noted(checkpoint_of(of_a_task()), machine_at(CHECKPOINT_EVENTS - 1))

    assert supervisor.asked == []


async def test_it_is_noted_now_and_then_only(supervisor):
    checkpoint = checkpoint_of(of_a_task())

    await noted(checkpoint, machine_at(CHECKPOINT_EVENTS))
    await noted(checkpoint, machine_at(3 * CHECKPOINT_EVENTS))

    assert supervisor.asked == ["SetXCom"]


async def test_nothing_is_noted_amid_a_line_whose_text_would_stand_in_xcom(supervisor):
    machine = machine_at(CHECKPOINT_EVENTS)
    machine.event(
        Output(seq=CHECKPOINT_EVENTS + 1, stream="stdout", data="hunter2", timestamp=CHECKPOINT_EVENTS), 0.0
    )

    await noted(checkpoint_of(of_a_task()), machine)

    assert supervisor.asked == []


async def test_what_the_wait_began_with_is_not_noted_again(supervisor):
    machine = machine_at(CHECKPOINT_EVENTS)

    await noted(checkpoint_of(of_a_task(), machine), machine)

    assert supervisor.asked == []


async def test_nothing_is_noted_soon_after_the_beginning(supervisor):
    await noted(checkpoint_of(of_a_task(), age=CHECKPOINT_SECONDS / 2), machine_at(CHECKPOINT_EVENTS))

    assert supervisor.asked == []


@pytest.mark.parametrize("note", [None, "odd", {"process_id": "another", "state": {}}])
async def test_a_note_of_another_process_is_none(supervisor, note):
    supervisor.xcom[XCOM_KEY] = note

    assert await checkpoint_of(of_a_task()).load() is None


async def test_an_airflow_that_can_not_be_asked_does_not_end_the_wait(supervisor):
    supervisor.broken = True
    checkpoint = checkpoint_of(of_a_task())

    assert await checkpoint.load() is None
    await noted(checkpoint, machine_at(CHECKPOINT_EVENTS))

    assert supervisor.asked == ["GetXCom", "SetXCom"]


async def test_without_a_triggerer_around_it_nothing_is_noted():
    await push(of_a_task(), "key", 1)

    assert await checkpoint_of(of_a_task()).load() is None


EXPIRED = httpx.Response(410, json={"error": "Replay window expired", "code": "replay_window_expired"})


async def test_a_trigger_that_takes_over_asks_for_no_note_where_all_is_still_kept(supervisor, network):
    network.queue(*STREAM, event_stream(sse_output(2, "b\n"), sse("done", result_body(last_seq=2))))

    await fired(of_a_task(deferred_at=LONG_AGO, state={"next_seq": 2}))

    assert "GetXCom" not in supervisor.asked


@pytest.mark.parametrize(("noted_seq", "asks_for", "lost"), [(6, ["2", "7"], False), (0, ["2", "3"], True)])
async def test_where_its_beginning_is_no_longer_kept_it_goes_on_from_the_note(
    supervisor, network, noted_seq, asks_for, lost
):
    if noted_seq:
        state = machine_at(noted_seq).state()
        supervisor.xcom[XCOM_KEY] = {"process_id": PROCESS, "state": state}
    first = int(asks_for[-1])
    rest = event_stream(sse_output(first, "g\n"), sse("done", result_body(last_seq=first)))
    network.queue(*STREAM, EXPIRED, rest)

    event = await fired(of_a_task(deferred_at=LONG_AGO, state={"next_seq": 2}))

    assert (event.status, event.output_lost) == ("exited", lost)
    asked = [r.url.params["from_seq"] for r in network.requests if r.url.path == STREAM[1]]
    assert asked == asks_for
    assert supervisor.asked.count("GetXCom") == 1


@pytest.mark.parametrize("may", [False, True])
async def test_a_trigger_notes_only_where_it_may(supervisor, network, monkeypatch, may):
    monkeypatch.setattr("airflow_provider_sbx.triggers.checkpoint.CHECKPOINT_SECONDS", 0.0)
    network.queue(*STREAM, held_stream(sse_output(1, "x" * CHECKPOINT_BYTES + "\n")))
    waiting = asyncio.create_task(fired(of_a_task(deferred_at=LONG_AGO, checkpoints=may)))

    if may:
        await until(lambda: XCOM_KEY in supervisor.xcom)
    else:
        await asyncio.sleep(0.3)
    waiting.cancel()

    assert (XCOM_KEY in supervisor.xcom) is may
