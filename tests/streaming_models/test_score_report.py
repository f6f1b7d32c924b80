"""An evaluation written down."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

from streaming_models.evaluate import ClipFacts, ClipResult, Latencies, Stability
from streaming_models.score_report import charts_of, markdown_of, numbers_of, rate_text, seconds_text, write_report
from streaming_models.scoring import ClipScore, ErrorCount

SCORE = ClipScore(
    cpwer=ErrorCount(3, 10), orcwer=ErrorCount(2, 10), tcpwer=ErrorCount(3, 10), der=ErrorCount(1.5, 6.0),
    overlapped=ErrorCount(1, 2), alone=ErrorCount(1, 8),
)  # fmt: skip
RESULT = ClipResult(
    "a",
    10.0,
    SCORE,
    ClipFacts("here", 2, 0.25, 10.0, 4, t60_s=0.4),
    algorithmic=Latencies((300.0,), (500.0,), (900.0,)),
    reference=Latencies((200.0, 400.0), (600.0, 700.0), (800.0,), (1000.0,)),
    stability=Stability(shown=20, revised=5, turns=4, label_flips=1),
)
SYSTEMS = {"moonshine": [RESULT], "sot@channels=1": [replace(RESULT, facts=ClipFacts("here", 2, 0.5, 10.0, 1))]}


def test_numbers_hold_counts_percentiles_and_facts() -> None:
    numbers = numbers_of(RESULT, realtime=False)
    assert numbers["cpwer"] == {"errors": 3, "length": 10, "rate": 0.3}
    assert numbers["wer_overlapped"] == {"errors": 1, "length": 2, "rate": 0.5}
    assert numbers["latency_ms"]["reference"]["first_shown_ms"] == {
        "p50": 300.0, "p90": 380.0, "p95": 390.0, "p99": 398.0, "count": 2,
    }  # fmt: skip
    assert set(numbers["latency_ms"]) == {"algorithmic", "reference"}
    assert numbers["stability"] == {"shown": 20, "revised": 5, "turns": 4, "label_flips": 1, "unlabelled": 0}
    assert numbers["facts"]["t60_s"] == 0.4
    assert "snr_db" not in numbers["facts"]
    live = numbers_of(RESULT, realtime=True)
    assert set(live["latency_ms"]) == {"algorithmic", "reference", "wall_clock", "reference_wall_clock"}


def test_a_rate_against_nothing_is_null_in_json_and_a_dash_to_read() -> None:
    ghost = replace(RESULT, score=replace(SCORE, cpwer=ErrorCount(4, 0), orcwer_is_exact=False))
    assert numbers_of(ghost, realtime=False)["cpwer"]["rate"] is None
    assert rate_text(ghost, "cpwer") == "-"
    assert rate_text(ghost, "orcwer") == "<=0.200"
    assert seconds_text([]) == "-/-/-"
    assert seconds_text([1000.0, 2000.0], ("p50",)) == "1.50"


def test_a_report_is_a_folder_of_tables_counts_and_charts(tmp_path: Path) -> None:
    card = {"command": "crosstalk evaluate x", "versions": {"numpy": "2"}, "seeds": {"a": 5}}
    written = write_report(tmp_path / "out", SYSTEMS, card, realtime=False)
    assert sorted(written) == sorted((tmp_path / "out").iterdir())
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert (scores["command"], scores["seeds"]) == (card["command"], {"a": 5})
    assert '"rate"' not in json.dumps(scores)
    sot = scores["systems"]["sot@channels=1"]
    assert sot["total"]["clips"] == 1
    assert sot["slices"]["overlap"]["40 % +"]["cpwer"] == {"errors": 3, "length": 10}
    report = (tmp_path / "out" / "report.md").read_text()
    linked = re.findall(r"\]\(([^)]+)\)", report)
    assert sorted(linked) == sorted(path.name for path in written if path.suffix == ".svg")
    write_report(tmp_path / "out", SYSTEMS, card, realtime=False)  # again, over the old one


def test_the_report_shows_every_system_in_every_slice_it_has() -> None:
    report = markdown_of(SYSTEMS, {"command": "c"}, {})
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in report.splitlines() if line[:1] == "|"]
    assert {tuple(row[:2]) for row in rows} >= {
        ("here", "moonshine"), ("here", "sot@channels=1"), ("20-40 %", "moonshine"), ("40 % +", "sot@channels=1"),
        ("up to 0.6 s", "moonshine"),
    }  # fmt: skip
    latency = next(row for row in rows if row[0] == "moonshine" and "0.30/0.38/0.40" in row)
    assert latency[-3:] == ["0.250", "25", "0"]
    headings = [line for line in report.splitlines() if line.startswith("### By ")]
    assert headings == [f"### By {kind}" for kind in ("condition", "overlap", "speakers", "channels", "length", "T60")]


def test_latency_charts_fall_back_on_the_recognisers_own_word_ends() -> None:
    untimed = replace(RESULT, reference=Latencies())
    charts = charts_of({"moonshine": [untimed]})
    assert "as recognised" in charts["latency_final.svg"][0]
    assert "latency_first_token.svg" not in charts
    assert "in the reference" in charts_of(SYSTEMS)["latency_final.svg"][0]
    assert charts_of({"moonshine": []}).keys() == {"wer_by_overlap.svg", "wer_in_overlap.svg"}
