import inspect
import pickle
import re

import pytest

from airflow_provider_sbx.api import errors


def test_the_tree_in_the_docstring_is_the_tree_of_classes():
    classes = {
        name: value
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, Exception)
    }
    drawn = {}
    parents = []
    for line in errors.__doc__.splitlines():
        found = re.match(r"^([│├└─ ]*)(\w+Error)\b", line)
        if found:
            depth = len(found[1]) // 4
            parents[depth:] = [found[2]]
            drawn[found[2]] = parents[depth - 1] if depth else "Exception"

    assert drawn == {name: kind.__bases__[0].__name__ for name, kind in classes.items()}


def test_a_bad_parameter_is_also_a_value_error_that_says_what_to_write():
    error = errors.InvalidParameterError("cwd", "it is empty", "Leave it out.")

    assert isinstance(error, ValueError)
    assert str(error) == "cwd: it is empty. Leave it out."


def of_a_task(error, task_id):
    error.task_id = task_id
    return error


def test_a_bad_parameter_of_a_task_names_the_task_first():
    error = of_a_task(errors.InvalidParameterError("cwd", "it is empty", "Leave it out."), "etl.fetch")

    assert str(error) == "Task 'etl.fetch': cwd: it is empty. Leave it out."
    assert (error.parameter, error.problem, error.remedy) == ("cwd", "it is empty", "Leave it out.")


@pytest.mark.parametrize(
    "error",
    [
        errors.InvalidParameterError("a", "b", "c"),
        of_a_task(errors.InvalidParameterError("a", "b", "c"), "t"),
        errors.ServiceError("x", retryable=True, retry_after_seconds=2, request_id="r"),
        errors.TransportError("x", surely_unsent=True),
        errors.StreamBrokenError("x"),
        errors.NotFoundError("x", status_code=404, code="c", request_id="r"),
        errors.OutcomeUnknownError("start", errors.TransportError("cut", surely_unsent=False)),
        errors.ProcessFailedError("x"),
    ],
)
def test_an_error_survives_being_sent_to_another_process(error):
    again = pickle.loads(pickle.dumps(error))

    assert type(again) is type(error)
    assert str(again) == str(error)
    plain = {name: value for name, value in vars(error).items() if not isinstance(value, Exception)}
    assert plain.items() <= vars(again).items()


def test_the_request_id_is_part_of_the_message_where_there_is_one():
    assert str(errors.ServiceError("It broke", request_id="r-1")) == "It broke (request id r-1)"
    assert str(errors.ServiceError("It broke")) == "It broke"


def test_an_unknown_outcome_says_what_and_why():
    cause = errors.TransportError("the line was cut", surely_unsent=False)

    assert "start a process" in str(errors.OutcomeUnknownError("start a process", cause))
    assert "the line was cut" in str(errors.OutcomeUnknownError("start a process", cause))
