"""Picture of the page in the middle of the sample meeting: `python -m tests.server.web.screenshot OUT.png`."""

from __future__ import annotations

import argparse
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from server.local import LocalServer
from tests.server.web.browser import open_browser
from tests.server.web.conftest import wait_until

LARGEST_BYTES = 300_000

TWO_AT_ONCE = """
(atLeast) => {
  const [minutes, seconds] = document.getElementById("played").textContent.split(" /")[0].split(":").map(Number);
  const last = [...document.querySelectorAll("#rows > .speech")].slice(-4);
  return 60 * minutes + seconds >= atLeast && last.some((row) => row.classList.contains("with-previous"));
}
"""


def take(out: Path, *, light: bool, mobile: bool, at_s: float, names: list[str]) -> None:
    """Play the sample against a server of one's own and save the first moment after `at_s` with two people at once.

    Raises:
        RuntimeError: the picture is too large for a README.
    """
    with LocalServer() as server, open_browser() as browser:
        page = browser.new_page(
            base_url=server.url,
            viewport={"width": 390, "height": 844} if mobile else {"width": 1280, "height": 800},
            color_scheme="light" if light else "dark",
        )
        page.goto("/")
        page.get_by_role("button", name="Play the sample meeting").click()
        wait_until(page, f"({TWO_AT_ONCE})({at_s})", timeout_s=90)
        session = parse_qs(urlsplit(page.url).query)["session"][0]
        for number, name in enumerate(names, start=1):
            page.request.patch(f"/v1/sessions/{session}/speakers/S{number}", data={"name": name})
        page.wait_for_timeout(700)
        page.screenshot(path=out)
    if out.stat().st_size > LARGEST_BYTES:
        raise RuntimeError(f"{out}: expected at most {LARGEST_BYTES} bytes, got {out.stat().st_size}")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--light", action="store_true")
    parser.add_argument("--mobile", action="store_true")
    parser.add_argument("--at", type=float, default=20.0, metavar="SECONDS", help="not before this (default: 20)")
    parser.add_argument("--names", nargs="*", default=[], help="display names for S1, S2, ...")
    given = parser.parse_args()
    take(given.out, light=given.light, mobile=given.mobile, at_s=given.at, names=given.names)


if __name__ == "__main__":
    main()
