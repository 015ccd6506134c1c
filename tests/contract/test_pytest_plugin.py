"""The pytest plugin in a project of its own: there when asked for, and nothing left behind."""

from __future__ import annotations

import os
import re
import secrets
import signal
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Without what this repository's own tests have and a project need not.
PLAIN = ("-p", "no:asyncio", "-p", "no:cacheprovider")
ENABLED = """
import pytest

pytest_plugins = ["airflow_provider_sbx.local.pytest_plugin"]


@pytest.fixture(scope="session")
def sbx_local_options():
    return ["--sandbox", "{name}"]
"""


@pytest.fixture
def name() -> str:
    """Of a sandbox, by which the project's server is told from all others."""
    return f"plugin-{secrets.token_hex(8)}"


def servers_with(name: str) -> list[int]:
    """Return the ids of the living processes that have this argument."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (process / "cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if name.encode() in arguments:
            found.append(int(process.name))
    return found


def test_a_project_that_enables_it_runs_commands_through_the_hook(
    pytester: pytest.Pytester, name: str
) -> None:
    pytester.makeconftest(ENABLED.format(name=name))
    pytester.makepyfile(
        f"""
        import dataclasses
        import os

        import pytest

        from airflow_provider_sbx.hooks.sandbox import SandboxHook


        def test_a_command_runs(sbx_default):
            with SandboxHook() as hook:
                assert hook.exec({name!r}, "echo hi").stdout == "hi\\n"


        def test_the_vendors_variables_serve_as_well(sbx_default, monkeypatch):
            assert os.environ["HYPERBROWSER_BASE_URL"] == sbx_default.url
            monkeypatch.delenv("AIRFLOW_CONN_SBX_DEFAULT")
            with SandboxHook() as hook:
                assert hook.get_sandbox({name!r}).id == {name!r}


        def test_the_environment_is_changed_for_the_tests_that_ask(sbx_local):
            assert "AIRFLOW_CONN_SBX_DEFAULT" not in os.environ
            assert "HYPERBROWSER_API_KEY" not in os.environ
            assert sbx_local.api_key not in repr(sbx_local)
            with pytest.raises(dataclasses.FrozenInstanceError):
                sbx_local.url = "http://127.0.0.1:1"
        """
    )
    page = (ROOT / "docs" / "embedded-server.md").read_text()
    (example,) = (
        code for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "SandboxHook" in code
    )
    pytester.makepyfile(test_of_the_page=example)
    result = pytester.runpytest_subprocess(*PLAIN)
    result.assert_outcomes(passed=4)
    assert servers_with(name) == []


def test_a_project_can_enable_it_on_the_command_line(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        "def test_it_is_there(sbx_local): assert sbx_local.url.startswith('http://127.0.0.1:')"
    )
    result = pytester.runpytest_inprocess(*PLAIN, "-p", "airflow_provider_sbx.local.pytest_plugin")
    result.assert_outcomes(passed=1)


def test_a_project_that_does_not_enable_it_has_no_such_fixture(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it_is_not_there(sbx_local): pass")
    result = pytester.runpytest_inprocess(*PLAIN)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*fixture 'sbx_local' not found*"])


def test_a_server_that_does_not_start_says_why(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(ENABLED.format(name="No/Good"))
    pytester.makepyfile("def test_it_is_not_reached(sbx_local): pass")
    result = pytester.runpytest_subprocess(*PLAIN)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        ["*sbx-local did not start (exit code 2)*", "*'No/Good' is not a sandbox id*"]
    )


def test_no_server_outlives_a_pytest_that_is_killed(pytester: pytest.Pytester, name: str) -> None:
    pytester.makeconftest(ENABLED.format(name=name))
    pytester.makepyfile(
        f"""
        import os
        import signal

        def test_it_dies(sbx_local):
            os.kill(os.getpid(), {int(signal.SIGKILL)})
        """
    )
    result = pytester.runpytest_subprocess(*PLAIN)
    assert result.ret == -signal.SIGKILL
    deadline = time.monotonic() + 20
    while servers_with(name):
        assert time.monotonic() < deadline
        os.sched_yield()
