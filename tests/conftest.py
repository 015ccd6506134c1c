"""The embedded sandbox server, for all tests that talk to a real one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dev.sbx_local import SbxLocal


@pytest.fixture(scope="session")
def sbx_local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SbxLocal]:
    """The embedded server as a process: its `url` and `api_key`; started when first asked for."""
    with SbxLocal(tmp_path_factory.mktemp("sbx-local")) as server:
        yield server
