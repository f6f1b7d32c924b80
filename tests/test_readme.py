"""README says what is true: every setting, the commands that a newcomer types, and no dead link."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from server.cli import COMMANDS
from server.config import Settings

ROOT = Path(__file__).resolve().parent.parent


def readme() -> str:
    """The page; a missing one fails the test that asks."""
    return (ROOT / "README.md").read_text(encoding="utf-8")


def configuration_table() -> dict[str, str]:
    """Setting -> its row: those of the table whose first cells name settings in backticks."""
    rows: dict[str, str] = {}
    for block in re.findall(r"(?:^\|.*\n?)+", readme(), re.MULTILINE):
        named = {m[1]: line for line in block.splitlines() if (m := re.match(r"\|\s*`([a-z_]+)`\s*\|", line))}
        if "redis_url" in named:
            rows |= named
    return rows


def test_configuration_table_has_every_setting_and_no_other() -> None:
    assert sorted(configuration_table()) == sorted(field.name for field in fields(Settings))


@pytest.mark.parametrize("field", fields(Settings), ids=lambda field: field.name)
def test_configuration_table_gives_the_default(field: object) -> None:
    name, default = field.name, field.default  # type: ignore[attr-defined]
    row = configuration_table()[name]
    cells = [cell.strip().strip("`").replace(",", "").replace("_", "") for cell in row.split("|")[2:-1]]
    shown = {str(default), f"{default:g}"} if isinstance(default, int | float) else {default, default or "empty"}
    assert shown & {cell.replace(" ", "") for cell in cells}, f"{name}: expected a cell {default!r}, got {row}"


@pytest.mark.parametrize("command", ["make run", "make test"])
def test_readme_names_the_two_commands(command: str) -> None:
    assert command in readme()


@pytest.mark.parametrize("command", COMMANDS)
def test_readme_names_every_command_of_the_command_line(command: str) -> None:
    assert f"crosstalk {command}" in readme()


def test_no_link_of_the_readme_leads_nowhere() -> None:
    targets = re.findall(r"\]\(([^)#\s]+)", readme()) + re.findall(r'(?:src|href)="([^"#]+)"', readme())
    local = [target for target in targets if "://" not in target and not target.startswith("mailto:")]
    assert [target for target in local if not (ROOT / target).exists()] == []
