"""One real server and one real browser for all tests of the page."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page

from server.local import LocalServer
from tests.server.web.browser import open_browser, write_microphone

MICROPHONE_S = 25.0

OpenPage = Callable[..., Page]


@pytest.fixture(scope="package")
def server_url() -> Iterator[str]:
    with LocalServer() as server:
        yield server.url


@pytest.fixture(scope="package")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    microphone = write_microphone(tmp_path_factory.mktemp("microphone") / "microphone.wav", MICROPHONE_S)
    with open_browser(microphone) as browser:
        yield browser


@pytest.fixture(scope="package")
def complaints() -> list[str]:
    """What any page wrote to its console as an error or warning, and exceptions that nobody caught."""
    return []


def watch(page: Page, complaints: list[str]) -> Page:
    """Collect the page's complaints."""
    page.on("pageerror", lambda error: complaints.append(f"exception: {error}"))
    page.on(
        "console",
        lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None,
    )
    return page


def wait_until(page: Page, expression: str, timeout_s: float = 40.0) -> None:
    """Wait until a JavaScript expression holds. Playwright's own way to wait is `eval`, which the page's policy bans.

    Raises:
        TimeoutError: it never did.
    """
    deadline = time.monotonic() + timeout_s
    while not page.evaluate(expression):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout_s:g} s: {expression}")
        page.wait_for_timeout(100)


@pytest.fixture
def open_page(browser: Browser, server_url: str, complaints: list[str]) -> Iterator[OpenPage]:
    """Opens a path of the server in a browser of its own, so that nothing is shared but the server."""
    contexts: list[BrowserContext] = []
    before = len(complaints)

    def open_(path: str = "/", base: str = server_url, **options: Any) -> Page:
        context = browser.new_context(base_url=base, **options)
        contexts.append(context)
        page = watch(context.new_page(), complaints)
        page.goto(path)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert complaints[before:] == [], "the page complained in the console"
