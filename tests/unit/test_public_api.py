"""What users call changes on purpose only."""

from dev import public_api


def test_the_public_names_and_parameters_are_those_of_the_list():
    written = public_api.FILE.read_text()

    assert public_api.listing() == written, "if it is meant: python -m dev.public_api --write"
