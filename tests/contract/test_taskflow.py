"""Functions as tasks on a real sandbox server, waiting in the worker and in the triggerer."""

from __future__ import annotations

import asyncio
import platform
import uuid
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.exceptions import AirflowSkipException, TaskDeferred

from airflow_provider_sbx.api.errors import ProcessFailedError
from airflow_provider_sbx.client import SandboxClient
from airflow_provider_sbx.decorators.process import sandbox_command_task, sandbox_task
from airflow_provider_sbx.follow import Emit
from airflow_provider_sbx.operators import worker as worker_module
from airflow_provider_sbx.tasklog import emitter
from airflow_provider_sbx.triggers import process as trigger_module
from tests.unit.operators.conftest import context_of, store

__all__ = ["context_of", "store"]  # fixtures

Run = Callable[..., Any]


@pytest.fixture(autouse=True)
def _connection(sbx_default: Any) -> None:
    pass


@pytest.fixture(scope="module")
def service(sbx_local: Any) -> Iterator[SandboxClient]:
    with SandboxClient(sbx_local.api_key, sbx_local.url) as client:
        yield client


@pytest.fixture(scope="module")
def sandbox(service: SandboxClient) -> Iterator[str]:
    made = service.create_sandbox({"image_name": "python"})
    yield made.id
    service.stop_sandbox(made.id)


class Log:
    """Takes what a task logs of its process: text and stream; `heard` is told each text as it comes."""

    def __init__(self) -> None:
        self.records: list[tuple[str, str | None]] = []
        self.heard: Callable[[str], None] = lambda text: None

    def info(self, text: str, *, timestamp: str | None = None, stream: str | None = None) -> None:
        if timestamp is not None:
            self.records.append((text, stream))
            self.heard(text)

    def warning(self, text: str) -> None:
        self.records.append((text, "notice"))

    def lines(self, stream: str | None = None) -> list[str]:
        return [text for text, of in self.records if of == stream]


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    log = Log()

    def of_the_test(_: Any) -> Emit:
        return emitter(log)

    for module in (worker_module, trigger_module):
        monkeypatch.setattr(module, "emitter", of_the_test)
    return log


@pytest.fixture(params=["worker", "triggerer"])
def run(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, sandbox: str, context_of: Run
) -> Run:
    """Run a task to its end, either way."""
    monkeypatch.setattr(trigger_module, "SETTLE_SECONDS", 0)
    deferrable = request.param == "triggerer"

    def to_its_end(decorate: Run, function: Run, *args: Any, context: Any = None, **options: Any) -> Any:
        how = {"sandbox_id": sandbox, "deferrable": deferrable, "defer_after": 0} | options

        def task() -> Any:
            return decorate(**how)(function)(*args).operator

        context = (context or {}) | context_of(with_store=False)
        if not deferrable:
            return task().execute(context)
        with pytest.raises(TaskDeferred) as caught:
            task().execute(context)
        deferred = caught.value
        event = asyncio.run(anext(deferred.trigger.run()))
        return getattr(task(), deferred.method_name)(context, event.payload, **deferred.kwargs)

    return to_its_end


# --- a function ------------------------------------------------------------------------------


def test_a_function_gets_arguments_prints_and_returns(run: Run, log: Log) -> None:
    def total(numbers: list[int], *, ds: str) -> dict[str, Any]:
        import getpass
        import sys

        print(f"{len(numbers)} numbers for {ds}")
        print("why not", file=sys.stderr)
        return {"total": sum(numbers), "user": getpass.getuser(), "input": sys.stdin.read()}

    result = run(sandbox_task, total, [1, 2, 3], context={"ds": "2026-01-02"})

    assert result == {"total": 6, "user": "ubuntu", "input": ""}
    assert log.lines() == ["3 numbers for 2026-01-02"]
    assert log.lines("stderr") == ["why not"]


def test_what_is_printed_comes_while_the_function_runs(
    run: Run, log: Log, service: SandboxClient, sandbox: str
) -> None:
    def waits(answer: str) -> None:
        import pathlib
        import time

        print("step 0")
        until = time.monotonic() + 60
        while not pathlib.Path(answer).exists():
            if time.monotonic() > until:
                raise TimeoutError("nobody has seen step 0")
            time.sleep(0.01)
        print("step 1")

    answer = f"/tmp/{uuid.uuid4().hex}"  # the sandbox is shared

    def heard(text: str) -> None:
        if text == "step 0":
            service.exec(sandbox, f"touch {answer}")

    log.heard = heard
    assert run(sandbox_task, waits, answer) is None
    assert log.lines() == ["step 0", "step 1"]


def test_an_exception_shows_its_traceback_and_is_named(run: Run, log: Log) -> None:
    def breaks() -> None:
        {}["missing"]

    with pytest.raises(ProcessFailedError, match=r"^breaks raised KeyError: 'missing'\nProcess "):
        run(sandbox_task, breaks)
    here = breaks.__code__.co_firstlineno + 1
    assert log.lines("stderr")[:3] == [
        "Traceback (most recent call last):",
        f'  File "test_taskflow.py", line {here}, in breaks',
        '    {}["missing"]',
    ]
    assert log.lines("stderr")[-1] == "KeyError: 'missing'"


def test_an_exit_code_skips(run: Run) -> None:
    def nothing_to_do() -> None:
        import sys

        sys.exit(99)

    with pytest.raises(AirflowSkipException):
        run(sandbox_task, nothing_to_do)


def test_large_arguments_and_results_come_whole_and_not_into_the_log(run: Run, log: Log) -> None:
    def back(text: str) -> str:
        return text

    text = "é0123456789" * 60_000

    assert run(sandbox_task, back, text, max_output_bytes=1_500_000) == text
    assert sum(map(len, log.lines())) < 200


def test_a_result_beyond_the_limit_or_json_fails_by_name(run: Run) -> None:
    def much() -> str:
        return "x" * 70_000

    def odd() -> Any:
        return {"when": [__import__("datetime").date(2026, 1, 1)]}

    with pytest.raises(
        ProcessFailedError, match=r"^much returned 7\d\d\d\d bytes.* max_output_bytes is 65536"
    ):
        run(sandbox_task, much)
    with pytest.raises(
        ProcessFailedError, match=r"^odd returned .*the result\['when'\]\[0\] is a datetime.date"
    ):
        run(sandbox_task, odd)


def test_a_result_comes_after_more_output_than_the_service_keeps(run: Run) -> None:
    def noisy() -> int:
        for _ in range(3_000):
            print("x" * 1_000)
        return 5

    assert run(sandbox_task, noisy, max_log_bytes=10_000) == 5


@pytest.mark.parametrize("wait_strategy", ["wait", "poll"])
def test_a_result_comes_whichever_way_it_is_waited_for(run: Run, log: Log, wait_strategy: str) -> None:
    def prints() -> list[int]:
        print("once")
        return [1]

    assert run(sandbox_task, prints, wait_strategy=wait_strategy, poll_interval=0.5) == [1]
    assert log.lines() == ["once"]


def test_a_python_that_is_not_there_is_named(run: Run) -> None:
    def fn() -> None:
        pass

    with pytest.raises(ProcessFailedError, match=r"exit code 127[^$]*python9"):
        run(sandbox_task, fn, python="/opt/python9")


def test_a_function_with_what_it_closes_over_goes_as_a_pickle(run: Run) -> None:
    cloudpickle = pytest.importorskip("cloudpickle")
    step = timedelta(days=1)

    def put(files: dict[str, str]) -> str:
        import pathlib
        import platform

        folder = pathlib.Path("lib/cloudpickle")
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name).write_text(text)
        print(folder.parent.resolve())
        return platform.python_version()

    def later(day: date) -> str:
        return (day + step).isoformat()

    def loads(day: date) -> str:
        return run(sandbox_task, later, day, serializer="cloudpickle", env={"PYTHONPATH": "lib"})

    home = Path(cloudpickle.__file__).parent
    version = run(sandbox_task, put, {file.name: file.read_text() for file in home.glob("*.py")})
    if version.split(".")[:2] != platform.python_version().split(".")[:2]:
        with pytest.raises(ProcessFailedError, match="which can't run its bytecode"):
            loads(date(2026, 1, 1))
    else:
        assert loads(date(2026, 1, 1)) == "2026-01-02"


# --- a command -------------------------------------------------------------------------------


def test_a_returned_command_runs_with_the_operators_options(run: Run, log: Log) -> None:
    def count(name: str, ds: str) -> str:
        return f'echo "{name} {ds} $WHO {{{{ ds }}}}"; cat'

    result = run(
        sandbox_command_task, count, "a", context={"ds": "2026-01-02"}, env={"WHO": "me"}, stdin="typed\n"
    )

    assert result["stdout"] == "a 2026-01-02 me 2026-01-02\ntyped\n"
    assert log.lines() == ["a 2026-01-02 me 2026-01-02", "typed"]
