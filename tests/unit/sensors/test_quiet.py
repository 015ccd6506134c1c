"""A wait that needs no live output is a long-poll: it is cheaper than a stream, and as quick."""

import pytest

from tests.unit.operators.test_deferring import operator
from tests.unit.sensors.test_process import defer


def test_a_deferred_sensor_without_output_holds_no_stream(network, context_of):
    trigger = defer(network, context_of(), log_output=False).trigger

    assert (trigger.wait_strategy, trigger.max_log_bytes) == ("wait", 0)


@pytest.mark.parametrize(("given", "used"), [("stream", "wait"), ("wait", "wait"), ("poll", "poll")])
def test_an_operator_without_output_holds_no_stream_and_keeps_another_choice(given, used):
    options = operator(log_output=False, wait_strategy=given)._options(deferrable=True)

    assert (options.wait_strategy, options.log_bytes) == (used, 0)
