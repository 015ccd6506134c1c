"""The options that both our clients and the vendor's are given, which spell them alike."""

from __future__ import annotations

from typing import Any

RUN: dict[str, Any] = {"cwd": "/tmp", "env": {"A": "1"}, "timeout_ms": 5000, "run_as": "root"}
SECRETS: dict[str, Any] = {
    "B": "plain",
    "C": {"name": "versioned", "version": 2},
    "D": {"name": "newest", "version": "latest"},
}
ONE_PASSWORD: dict[str, Any] = {
    "token": "op",
    "vault": "Private",
    "fields": {"E": {"item": "login", "section": "more", "field": "password"}},
}
COMMON: dict[str, Any] = {
    "region": "us-east",
    "timeout_minutes": 5,
    "enable_recording": False,
    "exposed_ports": [{"port": 80}, {"port": 443, "auth": True}],
    "mounts": {"/data": {"id": "vol", "type": "ro", "shared": True}, "/more": {"id": "vol-2"}},
    "allow_internet_access": False,
    "allow_out": ["example.com"],
    "deny_out": ["10.0.0.0/8"],
}
IMAGE: dict[str, Any] = {
    "image_name": "python",
    "image_id": "img",
    "cpu": 2,
    "memory_mib": 1024,
    "disk_mib": 2048,
}
STORED: dict[str, Any] = {"secrets": {"B": "plain"}, "vault": "team", "one_password": ONE_PASSWORD}
TEAM: dict[str, Any] = {"status": "active", "page": 2, "limit": 5, "start": 1, "end": 2, "search": "a b&c"}
SOME: dict[str, Any] = {"search": "a b", "page": 2, "limit": 5}
