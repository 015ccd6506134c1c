"""Run by the Python of a clean environment: what the installed package says of itself, as JSON.

It imports nothing of the repository, and must find nothing of it.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import re
import subprocess
import sys

import airflow_provider_sbx


def main() -> None:
    """Print the report."""
    report = {
        "file": airflow_provider_sbx.__file__,
        "version": airflow_provider_sbx.__version__,
        "failed_imports": failed_imports(),
        **provider(),
        "ran": run_a_command(),
    }
    print(json.dumps(report))


def failed_imports() -> dict[str, str]:
    """Import every module and return what came of those that could not be."""
    failed = {}
    for module in pkgutil.walk_packages(airflow_provider_sbx.__path__, "airflow_provider_sbx."):
        if module.name.endswith("pytest_plugin"):  # pytest imports it, which isn't here
            continue
        try:
            importlib.import_module(module.name)
        except Exception as error:  # noqa: BLE001  # told to the test, with its module
            failed[module.name] = repr(error)
    return failed


def provider() -> dict[str, object]:
    """Return what Airflow found of the provider."""
    from airflow.providers_manager import ProvidersManager

    manager = ProvidersManager()
    name = "airflow-provider-sbx"
    return {
        "provider_version": manager.providers[name].version if name in manager.providers else None,
        "connection": getattr(manager.hooks.get("sbx"), "hook_class_name", None),
        "decorators": sorted(entry for entry, _ in manager.taskflow_decorators.items() if "sandbox" in entry),
        "links": [entry for entry in manager.extra_links_class_names if "sbx" in entry],
    }


def run_a_command() -> str:
    """Start the installed server, and run a command by the installed hook."""
    script = os.path.join(os.path.dirname(sys.executable), "sbx-local")
    env = os.environ | {"SBX_LOCAL_API_KEY": "packaging"}
    with subprocess.Popen(
        [script, "serve", "--isolation", "none"], env=env, stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            ready = re.match(r"ready: (\S+)", server.stdout.readline() if server.stdout else "")
            if ready is None:
                return "the server did not start"
            connection = {"conn_type": "sbx", "host": ready[1], "password": "packaging"}
            os.environ["AIRFLOW_CONN_SBX_DEFAULT"] = json.dumps(connection)
            from airflow_provider_sbx.hooks.sandbox import SandboxHook

            with SandboxHook() as hook:
                sandbox = hook.create_sandbox({"image_name": "python"})
                return hook.exec(sandbox.id, "echo installed").stdout
        finally:
            server.terminate()


if __name__ == "__main__":
    main()
