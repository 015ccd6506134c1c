from datetime import UTC, datetime

from airflow_provider_sbx.api.frames import MARK
from airflow_provider_sbx.api.output import LineAssembler
from airflow_provider_sbx.api.steps import Notice
from airflow_provider_sbx.tasklog import emitter
from tests.unit.builders import T0_MS, output


class Log:
    """Takes records as structlog does."""

    def __init__(self):
        self.records = []

    def info(self, text, **keys):
        self.records.append(("info", text, keys))

    def warning(self, text, **keys):
        self.records.append(("warning", text, keys))


def logged(*entries):
    log = Log()
    emitter(log)(entries)
    return log.records


def lines(*events):
    assembler = LineAssembler()
    return [line for event in events for line in assembler.feed(event)]


def test_each_line_is_a_record_with_the_sandboxes_time():
    first, second = logged(*lines(output(1, "a\nb\n")))

    at = datetime.fromtimestamp(T0_MS / 1000, UTC)
    assert first == ("info", "a", {"timestamp": at.isoformat(timespec="microseconds")})
    assert second == ("info", "b", {"timestamp": at.replace(microsecond=1).isoformat()})


def test_the_other_streams_are_told_apart():
    records = logged(*lines(output(1, "a\n", stream="stderr"), output(2, "b\n", stream="system")))

    assert [keys["stream"] for _, _, keys in records] == ["stderr", "system"]


def test_a_line_is_logged_as_it_is_whatever_it_holds():
    ((_, text, _),) = logged(*lines(output(1, "100%s {x} %(y)s\n")))

    assert text == "100%s {x} %(y)s"


def test_what_a_process_says_to_its_task_is_not_logged():
    records = logged(*lines(output(1, f"a\nhalf{MARK}1/2:x\n{MARK}2/2:y\nb\n")))

    assert [text for _, text, _ in records] == ["a", "half", "b"]


def test_a_notice_has_its_level_and_no_time_of_the_sandbox():
    assert logged(Notice("fine"), Notice("trouble", warning=True)) == [
        ("info", "fine", {}),
        ("warning", "trouble", {}),
    ]


def test_a_time_that_is_none_crashes_no_log():
    assert len(logged(*lines(output(1, "a\n", at_ms=10**18), output(2, "b\n", at_ms=-(10**18))))) == 2
