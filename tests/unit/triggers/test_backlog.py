"""What was logged is written down before a trigger ends."""

import asyncio
from types import SimpleNamespace

import pytest

from airflow_provider_sbx.api.output import Line
from airflow_provider_sbx.compat import push
from airflow_provider_sbx.logpipe import LogPipe, log_pipe
from airflow_provider_sbx.triggers.backlog import Backlog
from tests.unit.triggers.conftest import of_a_task


@pytest.fixture(autouse=True)
def quiet_pipe(monkeypatch):
    monkeypatch.setattr(log_pipe, "__dict__", vars(LogPipe()))


@pytest.fixture
def still_clock(monkeypatch):
    """Nothing is read meanwhile: a pipe takes so much a second to have been."""
    for module in ("logpipe", "triggers.backlog"):
        monkeypatch.setattr(f"airflow_provider_sbx.{module}.time", SimpleNamespace(monotonic=lambda: 1.0))


def lines(count, text="x"):
    return [Line("stdout", text, n, n) for n in range(count)]


def logged(*batches):
    backlog, kept = Backlog(of_a_task()), []
    emit = backlog.counted(kept.extend)
    for batch in batches:
        emit(batch)
    assert kept == [line for batch in batches for line in batch]
    return backlog


@pytest.mark.parametrize(
    ("count", "text", "turns"), [(0, "", 0), (1, "x", 1), (100, "x", 8), (9, "x" * 4096, 10)]
)
async def test_the_supervisor_has_as_many_turns_as_it_needs_to_read_what_was_logged(
    supervisor, count, text, turns
):
    await logged(*([lines(count, text)] if count else [])).written()

    assert supervisor.asked == ["MaskSecret"] * turns


def test_more_than_a_sockets_buffer_does_not_wait_there():
    assert logged(lines(10_000), lines(10_000)).turns == logged(lines(1_000)).turns == 52


def test_what_was_logged_long_ago_is_written(monkeypatch):
    backlog = logged(lines(100))
    monkeypatch.setattr("time.monotonic", lambda: 1e12)

    assert backlog.turns == 1, "others may have logged much meanwhile"
    log_pipe.write(1)
    assert backlog.turns == 0


async def test_what_the_trigger_asked_for_since_took_turns_as_well(supervisor):
    backlog = logged(lines(20))
    assert backlog.turns == 2

    await push(backlog._trigger, "return_value", 1)
    assert backlog.turns == 1
    await push(backlog._trigger, "more", 1)
    assert backlog.turns == 0


async def test_what_others_asked_for_since_took_turns_as_well(supervisor):
    backlog = logged(lines(20))

    await push(of_a_task(), "return_value", 1)

    assert backlog.turns == 1


async def test_a_turn_that_was_asked_for_before_is_none(supervisor):
    asked = asyncio.create_task(push(of_a_task(), "return_value", 1))
    supervisor.held = asyncio.Event()
    await asyncio.sleep(0)
    backlog = logged(lines(20))
    supervisor.held.set()
    await asked

    assert backlog.turns == 2


@pytest.mark.usefixtures("still_clock")
async def test_what_others_log_is_before_ones_own(supervisor):
    logged(lines(20))
    backlog = logged(lines(1))

    assert backlog.turns == 2, "one for its own, one since others log"
    for _ in range(2):
        await push(backlog._trigger, "return_value", 1)
    assert backlog.turns == 0


@pytest.mark.usefixtures("still_clock")
def test_what_is_logged_afterwards_is_not_waited_for():
    backlog = logged(lines(1))
    logged(lines(100))

    assert backlog.turns == 1


async def test_who_writes_much_waits_until_most_of_it_is_read(supervisor):
    backlog = logged(lines(300))

    await backlog.room()

    assert supervisor.asked == ["MaskSecret"] * 6, "each followed by two turns that are not asked for"
    assert log_pipe.unread <= 20 * 1024
    backlog.counted(lambda _: None)(lines(50))
    await backlog.room()
    assert len(supervisor.asked) == 6, "what was made room for is not asked for again"


async def test_those_who_write_much_have_room_one_after_the_other(supervisor):
    backlog, others = logged(lines(300)), [Backlog(of_a_task()) for _ in range(3)]
    unread = []

    async def write(each):
        await each.room()
        unread.append(log_pipe.unread)
        each.counted(lambda _: None)(lines(50))

    await asyncio.gather(*map(write, [backlog, *others]))

    assert max(unread) <= 40 * 1024


async def test_nobody_waits_for_room_for_ever(supervisor, monkeypatch):
    supervisor.held = asyncio.Event()  # never set
    monkeypatch.setattr("airflow_provider_sbx.triggers.backlog._LONGEST_SECONDS", 0.01)

    await logged(lines(300)).room()

    assert supervisor.asked == ["MaskSecret"]


async def test_nobody_waits_for_room_where_the_supervisor_can_not_be_asked(supervisor):
    supervisor.broken = True

    await logged(lines(300)).room()

    assert supervisor.asked == ["MaskSecret"]


async def test_nobody_waits_for_room_where_there_is_no_supervisor():
    await logged(lines(300)).room()


async def test_own_words_count_as_well(supervisor):
    backlog = Backlog(of_a_task())
    backlog.words(2)

    await push(backlog._trigger, "return_value", 1)
    await backlog.written()

    assert supervisor.asked == ["SetXCom"]


async def test_what_is_logged_at_the_very_end_has_a_turn_in_any_case(supervisor):
    backlog = Backlog(of_a_task())
    await push(backlog._trigger, "return_value", 1)

    await backlog.written(at_least=1)

    assert supervisor.asked == ["SetXCom", "MaskSecret"]


async def test_an_airflow_that_can_not_be_asked_does_not_end_the_wait(supervisor):
    supervisor.broken = True

    await logged(lines(3)).written()
