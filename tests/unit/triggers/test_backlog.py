"""What was logged is written down before a trigger ends."""

import pytest

from airflow_provider_sbx.api.output import Line
from airflow_provider_sbx.compat import push
from airflow_provider_sbx.triggers.backlog import Backlog
from tests.unit.triggers.conftest import of_a_task


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
    ("count", "text", "turns"), [(0, "", 1), (1, "x", 2), (100, "x", 16), (9, "x" * 4096, 12)]
)
async def test_the_supervisor_has_as_many_turns_as_it_needs_to_read_what_was_logged(
    supervisor, count, text, turns
):
    await logged(*([lines(count, text)] if count else [])).written()

    assert supervisor.asked == ["MaskSecret"] * turns


def test_more_than_a_sockets_buffer_does_not_wait_there():
    assert logged(lines(10_000), lines(10_000)).turns == logged(lines(1_000)).turns == 53


def test_what_was_logged_long_ago_is_written(monkeypatch):
    backlog = logged(lines(100))
    monkeypatch.setattr("time.monotonic", lambda: 1e12)

    assert backlog.turns == 1


async def test_what_the_trigger_asked_for_since_took_turns_as_well(supervisor):
    backlog = logged(lines(10))
    assert backlog.turns == 3

    await push(backlog._trigger, "return_value", 1)
    await push(backlog._trigger, "more", 1)
    assert backlog.turns == 1


async def test_what_is_logged_at_the_very_end_has_a_turn_in_any_case(supervisor):
    backlog = Backlog(of_a_task())
    await push(backlog._trigger, "return_value", 1)

    await backlog.written(at_least=1)

    assert supervisor.asked == ["SetXCom", "MaskSecret"]


async def test_an_airflow_that_can_not_be_asked_does_not_end_the_wait(supervisor):
    supervisor.broken = True

    await logged(lines(3)).written()
