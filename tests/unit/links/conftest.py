"""A task's context is that of the operators' tests."""

from tests.unit.operators.conftest import _connection, context_of, store

__all__ = ["_connection", "context_of", "store"]
