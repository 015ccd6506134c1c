import pytest

from tests.unit.client.twins import Async, Sync


@pytest.fixture(params=[Sync, Async], ids=["sync", "async"])
def connect(request):
    """Make the client of one twin, and close it at the end."""
    made = []

    def make(service, **options):
        made.append(request.param(service, **options))
        return made[-1]

    yield make
    for twin in made:
        twin.close()


@pytest.fixture
def twin(connect, service):
    return connect(service)
