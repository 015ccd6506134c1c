from tests.unit.operators.conftest import _connection, context_of, store

__all__ = ["_connection", "context_of", "store"]
