"""A browser that is logged in to a real Airflow; pictures of its pages for the documentation."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, ViewportSize, expect, sync_playwright

HERE = Path(__file__).parent
PICTURES = HERE.parents[1] / "docs" / "images"
SIZE = ViewportSize(width=1200, height=700)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

# The machine may be busy with others, and Airflow's pages ask again every few seconds.
expect.set_options(timeout=30_000)


@pytest.fixture(scope="session")
def dags_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a newcomer would write."""
    folder = tmp_path_factory.mktemp("dags")
    shutil.copytree(HERE / "dags", folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Debian's Chromium."""
    if CHROMIUM is None:
        pytest.fail("There is no chromium: apt-get install chromium (make browser says so too).")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def person(browser: Browser, airflow: Any) -> Iterator[BrowserContext]:
    """Somebody who has logged in by the page for it."""
    context = browser.new_context(base_url=airflow.url, viewport=SIZE, reduced_motion="reduce")
    page = context.new_page()
    page.goto("/")
    page.get_by_label("Username").fill(airflow.username)
    page.locator("input[type=password]").fill(airflow.password)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_text("Dags").first).to_be_visible()
    page.close()
    yield context
    context.close()


@pytest.fixture
def page(person: BrowserContext) -> Iterator[Page]:
    """An empty page."""
    page = person.new_page()
    page.set_default_timeout(30_000)
    yield page
    page.close()


@pytest.fixture(scope="session")
def picture() -> Callable[[Page | Locator, str], None]:
    """Keep a picture for the documentation, where `SBX_SCREENSHOTS=1` asks for that."""

    def keep(what: Page | Locator, name: str) -> None:
        if os.environ.get("SBX_SCREENSHOTS") == "1":
            PICTURES.mkdir(exist_ok=True)
            what.screenshot(path=PICTURES / f"{name}.png", scale="css", animations="disabled")

    return keep
