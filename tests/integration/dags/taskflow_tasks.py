"""Functions as tasks for the integration tests, each twice: waiting in the worker and in the triggerer."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, task

from airflow_provider_sbx.decorators.process import sandbox_command_task, sandbox_task
from airflow_provider_sbx.operators.sandbox_group import sandbox_group


@sandbox_task
def measures(word: str, *, run_id: Any = None, params: Any = None) -> dict[str, Any]:
    import sys

    print("measuring", word)
    print("to stderr", file=sys.stderr)
    return {"word": word, "letters": len(word), "run": run_id, "who": params["who"]}


@sandbox_task
def breaks(given: str) -> None:
    def inner() -> None:
        raise LookupError(f"nothing for {given}")

    inner()


@sandbox_task
def returns_a_set() -> Any:
    return {"words": {"a"}}


@sandbox_task
def talks() -> int:
    import time

    for step in range(15):
        print("step", step)
        time.sleep(1)
    return step


@sandbox_task
def comes_round(this_try: str) -> int:
    print("try", this_try)
    if int(this_try) < 2:
        raise RuntimeError("not yet")
    return int(this_try)


@sandbox_task
def square(n: int) -> int:
    return n * n


@sandbox_task
def adds_up(numbers: Any) -> int:
    return sum(numbers)


@sandbox_task
def makes_a_wheel() -> str:
    import pathlib
    import zipfile

    path = pathlib.Path("sbx_greeting-1.2-py3-none-any.whl").resolve()
    info = "sbx_greeting-1.2.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("sbx_greeting.py", "WORD = 'hello'\n")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: sbx_greeting\nVersion: 1.2\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return str(path)


@sandbox_task
def greets() -> str:
    import sbx_greeting  # type: ignore[import-not-found]  # there by the task's requirements

    return str(sbx_greeting.WORD)


@sandbox_command_task
def counts(to: int, *, params: Any = None) -> str:
    return f"seq {to}; echo {params['who']} {{{{ ti.task_id }}}}"


@task.sandbox(sandbox={"image_name": "python"}, multiple_outputs=True)
def registered() -> Any:
    return {"a": 1}


for mode in ("worker", "triggerer"):
    how: dict[str, Any] = {
        "sandbox": {"image_name": "python"},
        "deferrable": mode == "triggerer",
        "defer_after": 0,
    }

    with DAG(f"taskflow_{mode}", params={"who": "you"}):
        measures.override(**how)("{{ params.who }} there")
        breaks.override(**how)("anybody")
        returns_a_set.override(**how)()
        comes_round.override(**how, retries=1, retry_delay=timedelta(seconds=3))("{{ ti.try_number }}")
        adds_up.override(**how)(square.override(**how).expand(n=[1, 2, 3]))
        counts.override(**how)(3)

    with DAG(f"taskflow_talks_{mode}"):
        talks.override(**how)()

    with DAG(f"taskflow_requirements_{mode}"):
        here = {name: value for name, value in how.items() if name != "sandbox"}
        with sandbox_group("box", image_name="python"):
            made = makes_a_wheel.override(**here)()
            greeted = greets.override(
                **here,
                requirements=["--no-index", "{{ ti.xcom_pull(task_ids='box.makes_a_wheel') }}"],
            )()
            made >> greeted

with DAG("taskflow_registered"):
    registered()
