"""The control plane: sandboxes, and starts that carry secrets. Opened by the API key."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from airflow_provider_sbx.api.models import IMAGES, SandboxStatus
from airflow_provider_sbx.local import bodies
from airflow_provider_sbx.local.answers import Answer
from airflow_provider_sbx.local.errors import ApiError, invalid, not_supported
from airflow_provider_sbx.local.sandboxes import Addresses, Sandbox, iso
from airflow_provider_sbx.local.services import Services
from airflow_provider_sbx.local.settings import BaseUrlStyle

_BEGINNING = iso(0)


def addresses(request: Request, sandbox_id: str, style: BaseUrlStyle) -> Addresses:
    """Return where this client finds a sandbox: at the host by which it called."""
    host = request.headers["host"]
    scheme = request.url.scheme
    if style is BaseUrlStyle.HOST:
        port = "" if request.url.port is None else f":{request.url.port}"
        own = f"{scheme}://{sandbox_id}.localhost{port}"
    else:
        own = f"{scheme}://{host}/sandbox/{sandbox_id}"
    return Addresses(own, f"{scheme}://{host}/sessions/{sandbox_id}")


def _detail(request: Request, sandbox: Sandbox, *, with_token: bool) -> dict[str, Any]:
    services = Services.of(request)
    token = services.gatekeeper.issue(sandbox.id) if with_token and sandbox.is_active else None
    return sandbox.detail(addresses(request, sandbox.id, services.settings.base_url_style), token)


async def create_sandbox(request: Request) -> Response:
    """POST /api/sandbox."""
    services = Services.of(request)
    spec = bodies.sandbox_spec(await bodies.read_json(request))
    if spec.image_name is None:
        raise ApiError(404, "snapshot_not_found", f"Snapshot {spec.snapshot_name} not found")
    if spec.image_name not in IMAGES:
        raise ApiError(404, "image_not_found", f"Image {spec.image_name} not found")
    if spec.mounts:
        raise not_supported("volumes (mounts)")
    delivery = services.secrets.resolve(spec.secrets, spec.vault, spec.one_password)
    sandbox = await services.sandboxes.create(spec)
    body = _detail(request, sandbox, with_token=True)
    if delivery.report:
        body["startupSecrets"] = delivery.report
    return Answer(body)


async def get_sandbox(request: Request) -> Response:
    """GET /api/sandbox/{id}."""
    sandbox = Services.of(request).sandboxes.get(request.path_params["sandbox_id"])
    return Answer(_detail(request, sandbox, with_token=True))


async def stop_sandbox(request: Request) -> Response:
    """PUT /api/sandbox/{id}/stop. Again is as good as once."""
    await Services.of(request).sandboxes.get(request.path_params["sandbox_id"]).close("stopped")
    return Answer({"success": True})


async def list_sandboxes(request: Request) -> Response:
    """GET /api/sandboxes."""
    query = request.query_params
    page = bodies.query_number(request, "page", 1, least=1)
    limit = bodies.query_number(request, "limit", 10, least=1, most=100)
    start, end = bodies.query_number(request, "start", 0), bodies.query_number(request, "end", 2**53)
    status, search = query.get("status"), query.get("search") or ""
    known = {s.value for s in SandboxStatus} - {SandboxStatus.UNKNOWN.value}
    if status and status not in known:
        raise invalid(f"status must be one of {', '.join(sorted(known))}")
    found = [
        sandbox
        for sandbox in Services.of(request).sandboxes.all()
        if (not status or sandbox.status.value == status)
        and start <= sandbox.created_at <= end
        and search in sandbox.id
    ]
    shown = found[(page - 1) * limit : page * limit]
    return Answer(
        {
            "sandboxes": [_detail(request, sandbox, with_token=False) for sandbox in shown],
            "totalCount": len(found),
            "page": page,
            "perPage": limit,
        }
    )


async def list_images(request: Request) -> Response:
    """GET /api/images: the vendor's names, all of them this machine's own programs."""
    search = request.query_params.get("search") or ""
    page = bodies.query_number(request, "page", 1, least=1)
    limit = bodies.query_number(request, "limit", 100, least=1, most=100)
    sources = request.query_params.getlist("source")
    found = [name for name in IMAGES if search in name and (not sources or "public" in sources)]
    images = [
        {
            "id": f"image-{name}",
            "imageName": name,
            "namespace": "default",
            "source": "public",
            "uploaded": True,
            "ready": True,
            "createdAt": _BEGINNING,
            "updatedAt": _BEGINNING,
        }
        for name in found[(page - 1) * limit : page * limit]
    ]
    return Answer({"images": images, "totalCount": len(found), "page": page, "perPage": limit})


async def list_snapshots(request: Request) -> Response:
    """GET /api/snapshots: there are none."""
    page = bodies.query_number(request, "page", 1, least=1)
    limit = bodies.query_number(request, "limit", 100, least=1, most=100)
    return Answer({"snapshots": [], "totalCount": 0, "page": page, "perPage": limit})


async def start_with_secrets(request: Request) -> Response:
    """POST /api/sandbox/{id}/processes."""
    services = Services.of(request)
    sandbox = services.sandboxes.get(request.path_params["sandbox_id"])
    params = bodies.process_parameters(await bodies.read_json(request))
    table = sandbox.processes()
    delivery = services.secrets.resolve(params.secrets, params.vault, params.one_password)
    process = await table.start(params, delivered=delivery.values)
    sandbox.contains_secrets = sandbox.contains_secrets or bool(delivery.values)
    return Answer({"process": process.summary(), "secrets": delivery.report})


async def refuse_unsupported(request: Request) -> Response:
    """Say that this part of the service isn't here."""
    raise not_supported(f"{request.method} {request.url.path}")


ROUTES = [
    Route("/api/sandbox", create_sandbox, methods=["POST"]),
    Route("/api/sandbox/{sandbox_id}", get_sandbox, methods=["GET"]),
    Route("/api/sandbox/{sandbox_id}/stop", stop_sandbox, methods=["PUT"]),
    Route("/api/sandbox/{sandbox_id}/processes", start_with_secrets, methods=["POST"]),
    Route("/api/sandboxes", list_sandboxes, methods=["GET"]),
    Route("/api/images", list_images, methods=["GET"]),
    Route("/api/snapshots", list_snapshots, methods=["GET"]),
    *(
        Route(path, refuse_unsupported, methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
        for path in (
            "/api/sandbox/{sandbox_id}/snapshot",
            "/api/sandbox/{sandbox_id}/network",
            "/api/sandbox/{sandbox_id}/expose",
            "/api/sandbox/{sandbox_id}/unexpose",
            "/api/images/{rest:path}",
            "/api/snapshots/{rest:path}",
            "/api/volumes",
            "/api/volumes/{rest:path}",
            "/api/secrets",
            "/api/secrets/{rest:path}",
            "/api/vaults",
            "/api/vaults/{rest:path}",
        )
    ),
]
