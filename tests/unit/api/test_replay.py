import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_sbx.api.replay import ReplaySearch


def search(gone, first_kept, *, moves=0, most=400):
    """Let the search ask a receiver that keeps from `first_kept` on; return what it found and how."""
    searching, asked = ReplaySearch(gone), []
    searching.expired()
    while searching.found is None and len(asked) < most:
        asked.append(searching.probe)
        if searching.probe < first_kept:
            searching.expired()
        else:
            searching.opened()
        first_kept += moves
    return searching.found, asked, first_kept


@given(gone=st.integers(1, 10**7), lost=st.integers(0, 10**7))
def test_the_first_number_that_is_kept_is_found_in_few_steps(gone, lost):
    found, asked, _ = search(gone, gone + 1 + lost)

    assert found == gone + 1 + lost
    assert len(asked) <= 2 * (lost + 1).bit_length() + 2


def test_where_only_the_number_asked_for_is_gone_one_step_is_enough():
    found, asked, _ = search(7, 8)

    assert (found, asked) == (8, [8])


@given(gone=st.integers(1, 1000), lost=st.integers(0, 10**6), moves=st.integers(1, 100))
def test_a_window_that_moves_on_meanwhile_ends_the_search_all_the_same(gone, lost, moves):
    found, asked, first_kept = search(gone, gone + 1 + lost, moves=moves)

    # What is still kept is not given up lightly: no more than what is written in a few requests' time.
    assert gone + lost < found <= first_kept + 20 * moves
    assert len(asked) < 128


def test_a_receiver_that_keeps_nothing_whatever_is_asked_exhausts_the_search():
    searching = ReplaySearch(1)
    for _ in range(100):
        if searching.exhausted:
            break
        searching.expired()

    assert searching.exhausted
    assert searching.found is None


@pytest.mark.parametrize("lost", [0, 5, 100_000])
def test_a_search_that_finds_is_never_exhausted_on_the_way(lost):
    searching = ReplaySearch(1)
    searching.expired()
    while searching.found is None:
        assert not searching.exhausted
        searching.expired() if searching.probe < 2 + lost else searching.opened()
