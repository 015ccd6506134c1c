"""What Airflow reads of this provider: see `airflow/provider_info.schema.json`."""

from __future__ import annotations

from typing import Any


def get_provider_info() -> dict[str, Any]:
    """Return the provider's description."""
    return {
        "package-name": "airflow-provider-sbx",
        "name": "Sandbox",
        "description": "Run commands in remote sandboxes (Hyperbrowser's sandbox process API).",
        "integrations": [
            {
                "integration-name": "Sandbox",
                "external-doc-url": "https://hyperbrowser.ai/docs",
                "tags": ["service"],
            }
        ],
        "hooks": [
            {
                "integration-name": "Sandbox",
                "python-modules": ["airflow_provider_sbx.hooks.sandbox"],
            }
        ],
        "operators": [
            {
                "integration-name": "Sandbox",
                "python-modules": [
                    "airflow_provider_sbx.operators.process",
                    "airflow_provider_sbx.operators.sandbox",
                    "airflow_provider_sbx.operators.sandbox_group",
                ],
            }
        ],
        "sensors": [
            {
                "integration-name": "Sandbox",
                "python-modules": ["airflow_provider_sbx.sensors.process"],
            }
        ],
        "triggers": [
            {
                "integration-name": "Sandbox",
                "python-modules": ["airflow_provider_sbx.triggers.process"],
            }
        ],
        "extra-links": ["airflow_provider_sbx.links.sandbox.SandboxLink"],
        "task-decorators": [
            {"name": "sandbox", "class-name": "airflow_provider_sbx.decorators.process.sandbox_task"},
            {
                "name": "sandbox_command",
                "class-name": "airflow_provider_sbx.decorators.process.sandbox_command_task",
            },
        ],
        "connection-types": [
            {
                "connection-type": "sbx",
                "hook-class-name": "airflow_provider_sbx.hooks.sandbox.SandboxHook",
                "hook-name": "Sandbox",
                "conn-fields": {
                    "sandbox_id": {
                        "label": "Default sandbox",
                        "description": "Sandbox for tasks that name none. Leave empty if each names its own.",
                        "schema": {"type": ["string", "null"]},
                    },
                    "request_timeout_seconds": {
                        "label": "Request timeout (seconds)",
                        "description": "Longest wait for an answer of the service. Default 30.",
                        "schema": {"type": ["number", "null"]},
                    },
                    "patience_seconds": {
                        "label": "Patience (seconds)",
                        "description": (
                            "How long the service may be out of reach without a break before a task fails. "
                            "Default 600."
                        ),
                        "schema": {"type": ["number", "null"]},
                    },
                    "max_streams": {
                        "label": "Streams at once",
                        "description": (
                            "How many outputs a triggerer reads live at once. Further tasks look at their "
                            "processes now and then, until a stream is free. Default 1000."
                        ),
                        "schema": {"type": ["integer", "null"], "minimum": 1},
                    },
                },
                "ui-field-behaviour": {
                    # Airflow 3.3.1 and 3.3.2 refuse to test a stored connection that has no port: their
                    # page sends 0.
                    "hidden-fields": ["login", "schema"],
                    "relabeling": {
                        "host": "API address",
                        "password": "API key",
                        "port": "Port (if not in the address)",
                    },
                    "placeholders": {
                        "host": "https://api.hyperbrowser.ai (leave empty for it)",
                        "password": "hb_...",
                    },
                },
            }
        ],
    }
