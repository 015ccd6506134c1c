"""What importing costs, which way imports go, and the names that people rely on."""

import importlib
import json
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = {"airflow", "httpx", "pydantic", "aiohttp", "tenacity", "structlog", "starlette", "asyncio", "ssl"}


def python(code):
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT, timeout=60
    )
    # Airflow 3.0 writes lines of its own before it.
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("module", ["airflow_provider_sbx", "airflow_provider_sbx.get_provider_info"])
def test_importing_the_root_or_the_provider_info_imports_nothing_heavy(module):
    code = f"import json, sys, {module}; print(json.dumps(sorted({{m.split('.')[0] for m in sys.modules}})))"

    assert HEAVY.isdisjoint(python(code))


def test_importing_the_root_costs_little():
    code = (
        "import json, time; begun = time.process_time(); import airflow_provider_sbx; "
        "from airflow_provider_sbx.get_provider_info import get_provider_info; get_provider_info(); "
        "print(json.dumps(time.process_time() - begun))"
    )

    assert min(python(code) for _ in range(3)) < 0.05


def test_the_language_of_the_service_can_be_imported_without_airflow_or_a_client():
    modules = [f"airflow_provider_sbx.api.{p.stem}" for p in ROOT.glob("airflow_provider_sbx/api/[a-z]*.py")]
    code = f"import json, sys, {', '.join(modules)}; print(json.dumps(list(sys.modules)))"

    assert len(modules) > 10
    assert {"airflow", "httpx", "aiohttp", "tenacity"}.isdisjoint(python(code))


@pytest.mark.parametrize(
    "module",
    [
        "decorators.operators",
        "decorators.process",
        "operators.process",
        "operators.sandbox",
        "operators.sandbox_group",
        "sensors.process",
    ],
)
def test_a_dag_file_imports_no_client_and_no_database_model(module):
    # Airflow itself imports some of it, which one depends on its version.
    code = (
        "import json, sys, airflow.sdk, airflow.providers.standard.operators.bash; had = set(sys.modules); "
        f"import airflow_provider_sbx.{module}; print(json.dumps(sorted(set(sys.modules) - had)))"
    )
    imported = python(code)

    assert "airflow_provider_sbx.hooks.sandbox" in imported
    assert {"airflow_provider_sbx.client", "airflow.models.xcom"}.isdisjoint(imported)
    assert {"aiohttp", "httpx", "httpx_aiohttp", "tenacity"}.isdisjoint(
        name.split(".")[0] for name in imported
    )


def test_synchronous_code_needs_no_aiohttp():
    code = (
        "import json, sys; from airflow_provider_sbx.client import SandboxClient; "
        "SandboxClient('key').close(); print(json.dumps(list(sys.modules)))"
    )

    assert "aiohttp" not in python(code)


def test_imports_go_one_way():
    pytest.importorskip("importlinter")
    code = (
        "from importlinter.cli import lint_imports; import sys; "
        "sys.exit(lint_imports(config_filename='pyproject.toml', no_cache=True, cache_dir=None))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT, timeout=60
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 broken" in done.stdout


PUBLIC = [
    ("hooks.sandbox", "SandboxHook"),
    ("hooks.sandbox", "SandboxAsyncHook"),
    ("operators.process", "SandboxExecOperator"),
    ("operators.process", "SandboxProcessOperator"),
    ("operators.process", "SandboxSignalOperator"),
    ("operators.sandbox", "SandboxCreateOperator"),
    ("operators.sandbox", "SandboxStopOperator"),
    ("operators.sandbox_group", "sandbox_group"),
    ("decorators.process", "sandbox_task"),
    ("decorators.process", "sandbox_command_task"),
    ("sensors.process", "SandboxProcessSensor"),
    ("triggers.process", "SandboxProcessTrigger"),
    ("client", "SandboxClient"),
    ("client", "AsyncSandboxClient"),
]


@pytest.mark.parametrize(("module", "name"), PUBLIC)
def test_the_names_that_people_rely_on_are_where_they_were_promised(module, name):
    assert hasattr(importlib.import_module(f"airflow_provider_sbx.{module}"), name)


OPERATIONS = [
    *("exec", "start", "get_process", "list_processes", "wait", "stream", "write_stdin", "signal", "kill"),
    *("create_sandbox", "get_sandbox", "stop_sandbox"),
]


@pytest.mark.parametrize("hook", ["SandboxHook", "SandboxAsyncHook"])
def test_both_hooks_have_the_promised_operations(hook):
    from airflow_provider_sbx.hooks import sandbox

    assert [name for name in OPERATIONS if not hasattr(getattr(sandbox, hook), name)] == []


PARAMETERS = [
    *("command", "sandbox_id", "sandbox", "cwd", "env", "append_airflow_env", "run_as", "timeout", "secrets"),
    *("skip_on_exit_code", "deferrable", "wait_strategy", "log_output", "poll_interval", "kill_grace"),
    *("output_processor", "max_output_bytes", "vault", "sbx_conn_id"),
]


@pytest.mark.parametrize("operator", ["SandboxExecOperator", "SandboxProcessOperator"])
def test_both_operators_take_the_promised_parameters(operator):
    from airflow_provider_sbx.operators import process

    made = getattr(process, operator)(task_id="t", command="x")

    assert [name for name in PARAMETERS if not hasattr(made, name)] == []


def test_the_package_is_marked_as_typed():
    assert (ROOT / "airflow_provider_sbx" / "py.typed").exists()


def test_the_version_is_that_of_the_installed_distribution():
    from airflow_provider_sbx import __version__

    found = [d.version for d in distributions() if d.name == "airflow-provider-sbx"]
    assert found in ([], [__version__])
