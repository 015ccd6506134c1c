"""The page of a sandbox for people, and whether the server is well."""

from __future__ import annotations

from html import escape

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

import airflow_provider_sbx
from airflow_provider_sbx.local.answers import Answer
from airflow_provider_sbx.local.sandboxes import iso
from airflow_provider_sbx.local.services import Services

_PAGE = """\
<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Sandbox {id}</title>
<style>body{{font:15px sans-serif;margin:2em}}td,th{{padding:.2em 1em .2em 0;text-align:left}}</style></head>
<body><h1>Sandbox {id}</h1><p>{status}, since {since}</p>
<table><tr><th>Process</th><th>Status</th><th>Exit code</th><th>Started</th><th>Ended</th></tr>
{rows}</table></body></html>
"""
_ROW = "<tr><td>{id}</td><td>{status}</td><td>{code}</td><td>{started}</td><td>{ended}</td></tr>\n"
_MOST_ROWS = 200
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


async def session(request: Request) -> Response:
    """GET /sessions/{id}: a sandbox's processes.

    Open to whoever is on this machine, so that it shows no command and no output: they may hold secrets.
    """
    sandbox = Services.of(request).sandboxes.get(request.path_params["sandbox_id"])
    rows = "".join(
        _ROW.format(
            id=escape(process.id),
            status=process.status.value,
            code="" if process.exit_code is None else process.exit_code,
            started=iso(process.started_at or process.created_at),
            ended="" if process.completed_at is None else iso(process.completed_at),
        )
        for process in sandbox.table.all()[:_MOST_ROWS]
    )
    page = _PAGE.format(
        id=escape(sandbox.id), status=sandbox.status.value, since=iso(sandbox.created_at), rows=rows
    )
    return HTMLResponse(page, headers={"content-security-policy": _POLICY})


async def health(request: Request) -> Response:
    """GET /healthz."""
    isolation = Services.of(request).isolation.name
    return Answer({"status": "ok", "version": airflow_provider_sbx.__version__, "isolation": isolation})


ROUTES = [
    Route("/sessions/{sandbox_id}", session, methods=["GET"]),
    Route("/healthz", health, methods=["GET"]),
]
