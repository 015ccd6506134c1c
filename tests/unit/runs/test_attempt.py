"""What a try is called, and what it leaves for the next."""

import json
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from airflow_provider_sbx.api.models import ProcessStatus
from airflow_provider_sbx.api.steps import Outcome
from airflow_provider_sbx.runs.attempt import Attempt


@pytest.fixture
def attempt(context_of):
    def make(try_number=1, *, max_tries=0, with_store=True, started=None, **identity):
        context = context_of(try_number, max_tries=max_tries, with_store=with_store)
        for name, value in identity.items():
            setattr(context["ti"], name, value)
        if started is not None:
            context["dag_run"] = SimpleNamespace(start_date=started)
        return Attempt(context)

    return make


def test_the_key_of_a_try_is_the_same_wherever_it_is_asked_for(attempt):
    assert attempt(2).key == attempt(2).key


def test_each_try_run_map_index_and_start_of_a_run_has_a_key_of_its_own(attempt):
    others = [
        attempt(),
        attempt(2),
        attempt(map_index=0),
        attempt(map_index=1),
        attempt(run_id="other"),
        attempt(task_id="other"),
        attempt(dag_id="other"),
        attempt(started=datetime(2026, 1, 2, tzinfo=UTC)),
    ]

    assert len({each.key for each in others}) == len(others)


def test_tries_that_left_no_word_are_known_by_their_keys(attempt):
    assert attempt(1).unrecorded_keys == ()
    assert attempt(3).unrecorded_keys == (attempt(1).key, attempt(2).key)

    attempt(2).remember("sb-1", "p-2")

    assert attempt(3).unrecorded_keys == ()
    assert attempt(4).unrecorded_keys == (attempt(3).key,)
    assert len(attempt(1000).unrecorded_keys) == 100


def test_without_a_store_all_earlier_tries_are_known_by_their_keys_only(attempt):
    attempt(1, with_store=False).remember("sb-1", "p-1")

    assert attempt(2, with_store=False).unrecorded_keys == (attempt(1).key,)


def test_a_run_without_a_start_has_a_key_as_well(context_of):
    context = context_of()
    del context["dag_run"]

    assert Attempt(context).key == Attempt(context | {"dag_run": None}).key


def test_the_label_names_the_task_instance_for_people(attempt):
    assert attempt(3).label == "dag/task run run try 3"
    assert attempt(3, map_index=4).label == "dag/task[4] run run try 3"


def test_an_unfinished_try_is_left_for_the_next(attempt):
    attempt(1).remember("sb-1", "p-1", owns_sandbox=True)

    left = attempt(2).left_over

    assert (left.sandbox_id, left.process_id, left.owns_sandbox) == ("sb-1", "p-1", True)


def test_a_sandbox_is_left_before_its_process_is_known(attempt):
    attempt(1).remember("sb-1", owns_sandbox=True)

    assert attempt(2).left_over.process_id is None


def test_a_finished_try_leaves_nothing(attempt):
    attempt(1).remember("sb-1", "p-1", finished=True)

    assert attempt(2).left_over is None


def test_a_task_that_a_person_cleared_begins_anew(attempt):
    attempt(1, max_tries=1).remember("sb-1", "p-1")

    assert attempt(2, max_tries=1).left_over is not None
    assert attempt(2, max_tries=2).left_over is None


@pytest.mark.parametrize("try_number", [2, 3, 4])
def test_what_a_try_left_stays_for_the_next_that_leaves_word(attempt, try_number):
    attempt(1).remember("sb-1", "p-1")

    assert attempt(try_number).left_over.process_id == "p-1"


def test_a_try_that_airflow_runs_anew_goes_on_with_what_it_left_itself(attempt):
    attempt(1).remember("sb-1", "p-1")

    assert attempt(1).left_over.process_id == "p-1"


def test_what_a_try_leaves_while_it_runs_is_not_left_over(attempt):
    running = attempt(1)
    assert running.left_over is None

    running.remember("sb-1", "p-1")

    assert running.left_over is None


@pytest.mark.parametrize("odd", [None, {}, "x", {"try_number": 1}, {"try_number": "x", "sandbox_id": "s"}])
def test_what_can_not_be_read_in_the_store_is_nothing(attempt, store, odd):
    attempt(1).remember("sb-1", "p-1")
    for key in store:
        store[key] = odd

    assert attempt(2).left_over is None


def test_a_later_version_may_store_more(attempt, store):
    attempt(1).remember("sb-1", "p-1")
    for record in store.values():
        record["brand_new"] = True

    assert attempt(2).left_over.process_id == "p-1"


def test_without_a_store_nothing_is_left_and_nothing_breaks(attempt):
    attempt(1, with_store=False).remember("sb-1", "p-1")

    assert attempt(2, with_store=False).left_over is None
    assert not attempt(2, with_store=False).has_store
    assert attempt(2).has_store


LARGE = Outcome(
    status=ProcessStatus.EXITED,
    exit_code=0,
    started_at=1,
    completed_at=2,
    error=None,
    stdout="".join(f"{n}\n" for n in range(11_000)),
    stderr="é" * 60_000,
    stdout_truncated=True,
    stderr_truncated=False,
    output_lost=False,
)


def test_a_large_result_is_kept_whole_within_what_airflow_stores_without_a_warning(attempt, store):
    attempt(1).remember("sb-1", "p-1", owns_sandbox=True, outcome=LARGE)

    (kept,) = store.values()
    assert len(json.dumps(kept)) < 64 * 1024
    assert attempt(2).left_over.outcome == LARGE


@pytest.mark.parametrize("spoilt", ["", "!", "AAAA", "eJxLTEoGAAJNASc="])
def test_a_result_that_is_not_what_was_stored_is_none(attempt, store, spoilt):
    attempt(1).remember("sb-1", "p-1", owns_sandbox=True, outcome=LARGE)
    (key,) = store
    store[key]["outcome"] = spoilt

    assert attempt(2).left_over is None
