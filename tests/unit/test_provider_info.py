"""What Airflow reads of the provider."""

import importlib
import json
import tomllib
from pathlib import Path

import airflow
import pytest

from airflow_provider_sbx.get_provider_info import get_provider_info
from airflow_provider_sbx.hooks.sandbox import SandboxHook

ROOT = Path(__file__).parents[2]
INFO = get_provider_info()
(CONNECTION,) = INFO["connection-types"]


def test_it_is_valid_by_airflows_own_schema():
    jsonschema = pytest.importorskip("jsonschema")
    schema = Path(airflow.__file__).parent / "provider_info.schema.json"

    jsonschema.validate(INFO, json.loads(schema.read_text()))


def test_every_module_and_class_that_it_names_is_there():
    rooms = [INFO[room] for room in ("hooks", "operators", "triggers", "sensors") if room in INFO]
    for entry in [entry for room in rooms for entry in room]:
        for module in entry["python-modules"]:
            importlib.import_module(module)
    module, _, name = CONNECTION["hook-class-name"].rpartition(".")
    assert getattr(importlib.import_module(module), name) is SandboxHook


def test_every_public_room_of_the_package_is_named():
    named = {
        module
        for room in ("hooks", "operators", "triggers", "sensors")
        for entry in INFO.get(room, [])
        for module in entry["python-modules"]
    }
    for room in ("hooks", "operators", "triggers", "sensors"):
        if any((ROOT / "airflow_provider_sbx" / room).glob("[a-z]*.py")):
            assert any(module.startswith(f"airflow_provider_sbx.{room}.") for module in named)


def test_its_integrations_are_those_that_its_rooms_speak_of():
    names = {integration["integration-name"] for integration in INFO["integrations"]}

    for room in ("hooks", "operators", "triggers"):
        assert {entry["integration-name"] for entry in INFO[room]} <= names


def test_the_connections_form_agrees_with_the_hook():
    assert CONNECTION["connection-type"] == SandboxHook.conn_type
    assert CONNECTION["hook-name"] == SandboxHook.hook_name
    assert set(CONNECTION["conn-fields"]) == {
        "sandbox_id",
        "request_timeout_seconds",
        "patience_seconds",
        "max_streams",
    }
    for name in CONNECTION["conn-fields"]:
        assert name in SandboxHook.__doc__
    assert CONNECTION["ui-field-behaviour"]["relabeling"]["password"] == "API key"


def test_it_is_found_by_the_entry_point_of_the_distribution():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    assert INFO["package-name"] == project["name"]
    (entry,) = project["entry-points"]["apache_airflow_provider"].values()
    module, _, name = entry.partition(":")
    assert getattr(importlib.import_module(module), name) is get_provider_info


def test_it_is_plain_json():
    assert json.loads(json.dumps(INFO)) == INFO
