"""A real sandbox server and a real Airflow for the whole session, each started once, when first asked for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from airflow_provider_sbx.compat import renders_in_triggerer
from dev.airflow_stack import AirflowStack

if TYPE_CHECKING:
    from airflow_provider_sbx.local.pytest_plugin import SbxLocal

# `sbx_local`, and a pytest within pytest to test where it comes from.
pytest_plugins = ["airflow_provider_sbx.local.pytest_plugin", "pytester"]

ROOT = Path(__file__).resolve().parents[1]
DAG_FOLDERS = (ROOT / "example_dags", ROOT / "tests" / "integration" / "dags")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # `-m "not airflow"` leaves out all that needs a running Airflow.
    for item in items:
        if "airflow" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.airflow)


@pytest.fixture(scope="session")
def dags_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The DAGs that Airflow sees: the examples and those of the integration tests. A test may add its own."""
    folder = tmp_path_factory.mktemp("dags")
    for source in DAG_FOLDERS:
        if source.is_dir():
            # An Airflow that can't start a task in the triggerer refuses such a DAG, as it should.
            newer = [] if renders_in_triggerer() else ["sandbox_without_a_worker.py"]
            ignored = shutil.ignore_patterns("__pycache__", *newer)
            shutil.copytree(source, folder, dirs_exist_ok=True, ignore=ignored)
    return folder


@pytest.fixture(scope="session")
def airflow(
    tmp_path_factory: pytest.TempPathFactory, sbx_local: SbxLocal, dags_folder: Path
) -> Iterator[AirflowStack]:
    """An Airflow with the server as its connection ``sbx_default``."""
    stack = AirflowStack(
        tmp_path_factory.mktemp("airflow"),
        dags_folder,
        env={
            "AIRFLOW_CONN_SBX_DEFAULT": sbx_local.connection,
            "AIRFLOW_CONN_SBX_WRONG_KEY": json.dumps(
                {"conn_type": "sbx", "host": sbx_local.url, "password": "not-the-key-of-the-server"}
            ),
        },
        cache=ROOT / ".demo" / "cache",
    )
    with stack:
        yield stack
