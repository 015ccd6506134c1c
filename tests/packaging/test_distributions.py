"""What is in the wheel and in the source distribution."""

from __future__ import annotations

import configparser
import email
import re
import tarfile
import tomllib
import zipfile
from pathlib import Path

import airflow_provider_sbx
from tests.packaging.conftest import PIP_FLAGS, ROOT, pip

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def names_of(wheel: Path) -> set[str]:
    return {name for name in zipfile.ZipFile(wheel).namelist() if not name.endswith("/")}


def info(wheel: Path, name: str) -> str:
    archive = zipfile.ZipFile(wheel)
    (found,) = [entry for entry in archive.namelist() if entry.endswith(f".dist-info/{name}")]
    return archive.read(found).decode()


def test_the_wheel_has_the_package_and_nothing_else(wheel: Path) -> None:
    names = names_of(wheel)
    package = ROOT / "airflow_provider_sbx"
    files = {
        str(path.relative_to(ROOT))
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }

    assert {name for name in names if ".dist-info/" not in name} == files
    assert "airflow_provider_sbx/py.typed" in names


def test_the_wheel_of_the_tree_is_that_of_the_source_distribution(wheel: Path, tmp_path: Path) -> None:
    pip("wheel", *PIP_FLAGS, "--no-deps", "--no-build-isolation", "-w", tmp_path, ROOT)
    (other,) = tmp_path.glob("*.whl")

    assert (other.name, names_of(other)) == (wheel.name, names_of(wheel))


def test_the_wheels_metadata_is_the_projects(wheel: Path) -> None:
    metadata = email.message_from_string(info(wheel, "METADATA"))

    assert metadata["Name"] == PROJECT["name"]
    assert metadata["Version"] == airflow_provider_sbx.__version__
    assert metadata["Requires-Python"] == PROJECT["requires-python"]
    assert metadata["License-Expression"] == "Apache-2.0"
    assert set(metadata.get_all("Provides-Extra", [])) == set(PROJECT["optional-dependencies"])
    assert metadata.get_payload() == (ROOT / "README.md").read_text()
    assert info(wheel, "licenses/LICENSE") == (ROOT / "LICENSE").read_text()


def test_the_wheel_has_the_entry_points(wheel: Path) -> None:
    points = configparser.ConfigParser()
    points.read_string(info(wheel, "entry_points.txt"))

    assert dict(points["apache_airflow_provider"]) == PROJECT["entry-points"]["apache_airflow_provider"]
    assert dict(points["console_scripts"]) == PROJECT["scripts"]


def test_the_source_distribution_has_what_its_readers_need_and_nothing_of_this_machine(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}

    assert {name.partition("/")[0] for name in names} == {
        "airflow_provider_sbx",
        "docs",
        "example_dags",
        *("CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "README.md", "SECURITY.md"),
        *("PKG-INFO", "mkdocs.yml", "pyproject.toml", ".gitignore"),
    }
    assert [name for name in names if re.search(r"__pycache__|\.pyc$|\.venv|\.egg-info", name)] == []
