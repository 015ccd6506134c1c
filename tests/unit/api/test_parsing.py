import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_sbx.api.parsing import parse_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=6,
)


@given(VALUES, st.booleans())
def test_sound_json_is_read_as_it_is(value, ascii_only):
    assert parse_json(json.dumps(value, ensure_ascii=ascii_only).encode()) == value


@given(st.text(st.sampled_from("ab\ud83d\ude00\udfff")))
def test_half_a_character_becomes_one_that_can_be_written(text):
    read = parse_json(json.dumps({text: [text]}))

    assert json.dumps(read, ensure_ascii=False).encode()


@pytest.mark.parametrize("raw", [b"", b"{", b"[" * 100_000, b"\xff", "nope"])
def test_what_is_no_json_is_a_value_error(raw):
    with pytest.raises(ValueError, match=r"."):
        parse_json(raw)


def test_a_byte_order_mark_is_passed_over():
    assert parse_json(b"\xef\xbb\xbf[1]") == [1]
