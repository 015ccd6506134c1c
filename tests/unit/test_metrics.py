"""What is told to Airflow's metrics."""

from datetime import timedelta

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from airflow_provider_sbx import metrics
from airflow_provider_sbx.api.output import Line
from airflow_provider_sbx.api.steps import Notice
from airflow_provider_sbx.compat import triggerer_stats, worker_stats
from airflow_provider_sbx.metrics import Meter, span


class Stats:
    """Airflow's metrics, as a list of what was told."""

    def __init__(self):
        self.told = []

    def incr(self, name, count=1):
        self.told.append((name, count))

    def timing(self, name, duration):
        self.told.append((name, duration))

    def gauge(self, name, value, tags):
        self.told.append((name, value))


@pytest.fixture
def stats():
    return Stats()


def line(text):
    return Line(text=text, stream="stdout", seq=1, timestamp_us=0)


def test_starts_finds_and_ends_are_told_at_once(stats):
    meter = Meter(stats)
    meter.started(0.5)
    meter.attached()
    meter.ended("exited", 2.0)

    assert stats.told == [
        ("sbx.process.started", 1),
        ("sbx.process.start_duration", timedelta(seconds=0.5)),
        ("sbx.process.attached", 1),
        ("sbx.process.ended.exited", 1),
        ("sbx.process.wait_duration", timedelta(seconds=2)),
    ]


def test_lines_are_told_in_batches_and_notices_are_none(stats):
    emitted = []
    meter = Meter(stats)
    emit = meter.counting(emitted.extend)
    for _ in range(1000):
        emit([line("abé"), Notice("trouble")])

    assert stats.told == []
    meter.report()
    meter.report()
    assert stats.told == [("sbx.output.lines", 1000), ("sbx.output.bytes", 4000)]
    assert len(emitted) == 2000


def test_a_wait_that_goes_on_tells_now_and_then(stats, monkeypatch):
    monkeypatch.setattr(metrics, "BATCH_SECONDS", 0.0)
    Meter(stats).counting(lambda _: None)([line("abé")])

    assert stats.told == [("sbx.output.lines", 1), ("sbx.output.bytes", 4)]


def test_the_first_stream_is_no_reconnect_and_a_worker_has_no_gauge(stats):
    meter = Meter(stats)
    for _ in range(3):
        meter.stream_opened()
        meter.stream_closed()

    assert stats.told == [("sbx.stream.reconnects", 1)] * 2


def test_a_process_that_was_left_on_purpose_is_come_back_to_without_a_reconnect(stats):
    meter = Meter(stats)
    for _ in range(3):
        meter.left()
        meter.stream_opened()
        meter.stream_closed()

    assert stats.told == []


def test_the_streams_of_all_waits_of_a_triggerer_are_one_number(stats):
    one, other = Meter(stats, is_shared=True), Meter(stats, is_shared=True)
    one.stream_opened()
    other.stream_opened()
    one.stream_closed()
    other.stream_closed()

    assert stats.told == [("sbx.streams.open", n) for n in (1, 2, 1, 0)]


def test_airflows_own_metrics_take_all_of_it():
    for stats in (worker_stats(), triggerer_stats()):
        meter = Meter(stats, is_shared=True)
        meter.started(0.1)
        meter.stream_opened()
        meter.stream_closed()


def test_a_span_costs_nothing_where_tracing_is_off():
    with span("sbx.wait", sandbox_id="sb-1") as current:
        assert current is trace.INVALID_SPAN


def test_a_span_is_told_where_tracing_is_on(monkeypatch):
    provider = TracerProvider()
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    monkeypatch.setattr(metrics, "_tracer", provider.get_tracer("ours"))

    with span("sbx.wait", sandbox_id="sb-1") as current:
        assert current.is_recording()
        assert trace.get_current_span() is current
    assert not current.is_recording()
    assert (current.name, dict(current.attributes)) == ("sbx.wait", {"sbx.sandbox_id": "sb-1"})
