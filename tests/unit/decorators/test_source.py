"""Which functions a sandbox can be given as source, and what of it."""

import functools

import pytest

from airflow_provider_sbx.api.errors import InvalidParameterError
from airflow_provider_sbx.decorators.source import check_function, source_of

LIMIT = 3


def refused(function, match):
    with pytest.raises(InvalidParameterError, match=match) as caught:
        source_of(function)
    assert caught.value.parameter == "python_callable"
    return caught.value


def as_it_is(function):
    return function


def wrapping(function):
    @functools.wraps(function)
    def wrapper(*args):
        return function(*args)

    return wrapper


def plain(a, b=2):
    # A comment.
    return f"{a}"


@as_it_is
@as_it_is
async def decorated(
    a: "LIMIT" = 1,
) -> "LIMIT":
    return a


def test_a_function_is_taken_from_its_definition_on_with_its_place():
    source = source_of(plain)

    assert source.text == 'def plain(a, b=2):\n    # A comment.\n    return f"{a}"\n'
    assert (source.file, source.line) == ("test_source.py", plain.__code__.co_firstlineno)


def test_decorators_that_give_the_function_itself_are_left_out():
    source = source_of(decorated)

    assert source.text.startswith("async def decorated(\n")
    assert source.line == decorated.__code__.co_firstlineno + 2


def test_a_function_within_a_block_keeps_its_indentation_and_its_texts():
    def inner():
        return """
not indented
"""

    assert source_of(inner).text == '    def inner():\n        return """\nnot indented\n"""\n'


def recursive(n):
    import json

    global counted
    counted = 1

    class Local:
        size = n

    def helper(x):
        return x + counted + n

    return [json, Local, helper, __name__, len, *(i for i in range(n)), recursive(n - 1)]


def test_a_function_may_name_itself_builtins_and_what_it_makes():
    source_of(recursive)


@pytest.mark.parametrize(
    "function",
    [
        len,
        print,
        str,
        str.upper,
        "x".upper,
        functools.partial(plain, 1),
        object(),
        5,
        None,
        type("C", (), {}),
    ],
)
def test_what_is_no_plain_function_is_refused(function):
    with pytest.raises(InvalidParameterError, match=r"python_callable: a .* is no plain function"):
        check_function(function)


def test_a_lambda_is_refused():
    refused(lambda: 1, "a lambda has no source of its own")


def test_a_generator_is_refused():
    def fn():
        yield 1

    refused(fn, r"fn yields.* Return a list")


def test_a_function_that_closes_over_something_is_refused_by_its_name():
    secret = object()

    def fn():
        return secret

    error = refused(fn, "fn uses secret, which stand in the function around it")
    assert "as arguments" in error.remedy
    assert 'serializer="cloudpickle"' in error.remedy


def uses_the_file():
    return pytest, LIMIT


def test_a_function_that_uses_the_files_imports_and_constants_is_refused_by_their_names():
    refused(uses_the_file, "uses_the_file uses LIMIT, pytest, which the DAG's file defines or imports")


def has_defaults(a=LIMIT, *, b=[LIMIT]):  # noqa: B006
    return a


def test_a_default_that_the_sandbox_can_not_evaluate_is_refused():
    refused(has_defaults, "has_defaults uses LIMIT")


def binds_its_own(items, key=lambda x: x, table=[i * 2 for i in range(3)]):  # noqa: B006
    def helper(x: LIMIT) -> LIMIT:
        return x

    return [helper(key(item)) for item in items]


def test_names_that_a_default_binds_itself_and_annotations_are_none_of_the_files():
    source_of(binds_its_own)


def test_a_function_that_another_decorator_wraps_is_refused():
    refused(wrapping(plain), "plain is wrapped by another decorator, whose code the sandbox has not")


def test_a_function_without_source_is_refused():
    made = {}
    exec("def fn(): return 1", made)

    refused(made["fn"], "the source of fn can't be read")
