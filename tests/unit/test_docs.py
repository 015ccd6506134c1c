"""What the pages say can be done as they say it: code that compiles, options, names and files that exist."""

import ast
import importlib
import inspect
import json
import re
from pathlib import Path
from typing import get_args, get_type_hints, is_typeddict

import pytest
import yaml

from dev import server_options

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
FENCE = re.compile(r"^( *)```(\w+)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
LINK = re.compile(r"\]\(([^)#]+?)(?:#[^)]*)?\)")
LANGUAGES = {"bash", "python", "json", "yaml"}

BLOCKS = [
    pytest.param(language, code, id=f"{page.name}-{language}-{number}")
    for page in PAGES
    for number, (_, language, code) in enumerate(FENCE.findall(page.read_text()), start=1)
]
PYTHON = [block for block in BLOCKS if block.values[0] == "python"]


def options():
    return set(FLAG.findall(server_options.help_text()))


def test_the_table_of_the_servers_options_is_that_of_its_help():
    page = (ROOT / "docs" / "embedded-server.md").read_text()
    shown = page.partition("<!-- options -->\n")[2].partition("<!-- /options -->")[0]

    assert shown == server_options.table(), "paste what `python -m dev.server_options` prints"
    assert set(FLAG.findall(shown)) | {"--help"} >= options()


@pytest.mark.parametrize(("language", "code"), BLOCKS)
def test_a_block_of_code_can_be_read(language, code):
    assert language in LANGUAGES
    if language == "python":
        compile(code, "block", "exec", dont_inherit=True)
    elif language == "json":
        json.loads(code)
    elif language == "yaml":
        yaml.safe_load(code)


@pytest.mark.parametrize(("language", "code"), BLOCKS)
def test_a_block_gives_the_server_only_options_and_variables_that_it_has(language, code):
    source = (ROOT / "airflow_provider_sbx" / "local" / "cli.py").read_text()
    for line in re.sub(r"\\\n", " ", code).splitlines():
        if "sbx-local serve" in line:
            assert set(FLAG.findall(line)) <= options()
    if "def sbx_local_options" in code:
        assert set(FLAG.findall(code)) <= options()
    assert all(f'"{name}"' in source for name in re.findall(r"SBX_LOCAL_\w+", code))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_names_only_options_of_the_server_or_of_another_program(page):
    others = {"--yes"}  # apt-get's

    assert set(FLAG.findall(page.read_text())) <= options() | others


@pytest.mark.parametrize(("language", "code"), PYTHON)
def test_a_block_imports_names_that_exist_and_gives_them_parameters_that_they_take(language, code):
    tree = ast.parse(code)
    imported = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("airflow_provider_sbx"):
            for alias in node.names:
                imported[alias.asname or alias.name] = getattr(
                    importlib.import_module(node.module), alias.name
                )
    for plugin in re.findall(r'"(airflow_provider_sbx\.[\w.]+)"', code):
        importlib.import_module(plugin)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in imported:
            given = {keyword.arg for keyword in node.keywords if keyword.arg is not None}
            assert given <= parameters(imported[node.func.id])


def parameters(called):
    """Return the names of all parameters, those that a class hands on to its bases included."""
    made = [cls.__init__ for cls in inspect.getmro(called)] if inspect.isclass(called) else [called]
    names = {name for function in made for name in inspect.signature(function).parameters}
    # `**options: Unpack[Options]`: the members of Options.
    options = [
        member
        for function in made
        if "Unpack[" in str(getattr(function, "__annotations__", {}))
        for hint in get_type_hints(function).values()
        for member in get_args(hint)
        if is_typeddict(member)
    ]
    return names.union(*(member.__annotations__ for member in options))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_links_to_files_that_exist(page):
    links = [link for link in LINK.findall(page.read_text()) if ":" not in link]

    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_names_make_targets_that_exist(page):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(), re.MULTILINE))

    assert named <= targets
