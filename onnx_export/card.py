"""The card that lies beside weights: what they are, what they were made of, and what was measured."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

STATED = ("data", "licence", "scores")


def read_fields(path: Path | None) -> dict[str, Any]:
    """The `fields` of a card from a JSON file; none without one.

    Raises:
        OSError, ValueError: it cannot be read, or is no JSON.
    """
    fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path else {}
    return fields


def card(head: Sequence[str], training: str, checkpoint: str, fields: Mapping[str, Any], export: Sequence[str]) -> str:
    """The card in Markdown; what `fields` leaves out is called not stated.

    Args:
        head: the title and what the weights do, a line each.
        training: the run that they come from.
        checkpoint: SHA-256 of its checkpoint.
        fields: `data`, `licence`, `scores` and whatever else the card shall say.
        export: what was measured when they were written, a line each.
    """
    scores = fields.get("scores") or {}
    extra = {name: text for name, text in fields.items() if name not in STATED}
    lines = [
        *head,
        "",
        f"- Licence: {fields.get('licence', 'not stated')}",
        f"- Training data: {fields.get('data', 'not stated')}",
        f"- Training: {training}",
        f"- Checkpoint: SHA-256 {checkpoint}",
        *(f"- {name.capitalize()}: {text}" for name, text in extra.items()),
        "",
        "## Scores",
        "",
        *([f"- {name}: {value}" for name, value in scores.items()] or ["Not stated."]),
        "",
        "## Export",
        "",
        *export,
        "",
    ]
    return "\n".join(lines)
