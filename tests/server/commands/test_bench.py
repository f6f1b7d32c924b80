"""`crosstalk bench`: its arithmetic and search, and one short run with a real server child."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from server.cli import main
from server.commands.bench import (
    MAX_RUNS,
    MAX_SESSIONS,
    SessionRun,
    Speech,
    Usage,
    load_speech,
    report_of,
    search_order,
    usage_of,
)
from server.errors import CrosstalkError
from server.protocol import AudioFormat


def session(*final_ms: float, ended: str = "finished", captioned_ms: int = 10_000, gaps: int = 0) -> SessionRun:
    run = SessionRun(sent_ms=10_000, captioned_ms=captioned_ms, gaps=gaps, ended=ended)
    run.latency.final_ms += final_ms
    run.latency.first_ms += [value / 2 for value in final_ms]
    return run


def report(*runs: SessionRun) -> dict[str, Any]:
    return report_of(list(runs), bound_ms=2000.0, idle=Usage(300.0, 5.0), after=Usage(330.0, 9.0), peak_rss_mb=340.0)


def test_memory_and_cpu_are_per_session_and_per_second_of_audio() -> None:
    numbers = report(session(1000.0), session(1500.0))
    assert numbers["held"]
    assert (numbers["rss_mb"], numbers["rss_mb_per_session"]) == (340.0, 20.0)
    assert numbers["cpu_seconds_per_audio_second"] == 0.2
    assert numbers["final_ms"]["p50"] == 1250.0
    assert numbers["first_partial_ms"]["p50"] == 625.0


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        (session(100.0, gaps=1), "1 gaps"),
        (session(100.0, ended=""), "no end came"),
        (session(100.0, ended="vanished"), "ended: vanished"),
        (session(100.0, captioned_ms=9_000), "captioned 9000 of 10000 ms"),
        (SessionRun(problem="refused: at_capacity"), "refused: at_capacity"),
    ],
)
def test_one_session_that_is_not_whole_means_not_held(bad: SessionRun, problem: str) -> None:
    numbers = report(session(100.0), bad)
    assert not numbers["held"]
    assert numbers["problems"] == [problem]


def test_late_finals_and_no_words_at_all_mean_not_held() -> None:
    assert not report(session(2001.0))["held"]
    assert not report(session())["held"]


@given(first=st.integers(1, MAX_SESSIONS), most=st.integers(0, 100))
@example(first=1, most=33)
@example(first=1, most=63)
def test_search_finds_the_largest_number_held_within_its_runs(first: int, most: int) -> None:
    runs: list[dict[str, Any]] = []
    for sessions in search_order(first, runs):
        assert 1 <= sessions <= MAX_SESSIONS
        runs.append({"sessions": sessions, "held": sessions <= most})
    assert len(runs) <= MAX_RUNS
    assert max((run["sessions"] for run in runs if run["held"]), default=0) == min(most, MAX_SESSIONS)


@given(st.integers(0, 30), st.integers(0, 200), st.integers(1, 60))
def test_speech_repeats_without_a_seam(offset: int, first_sample: int, samples: int) -> None:
    speech = Speech(AudioFormat(16_000, 1), bytes(range(46)))
    expected = (speech.pcm * 20)[2 * (offset + first_sample) :][: 2 * samples]
    assert speech.frame(offset, first_sample, samples) == expected


def test_default_speech_comes_with_an_installed_package() -> None:
    speech = load_speech(None)
    assert len(speech.pcm) / speech.audio.frame_bytes / speech.audio.sample_rate_hz > 30


def test_usage_is_read_from_proc() -> None:
    usage = usage_of(os.getpid())
    assert usage.rss_mb > 10
    assert usage.cpu_s > 0
    with pytest.raises(CrosstalkError, match="cannot be read"):
        usage_of(2**30)


def test_one_short_run_writes_all_its_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "bench.json"
    assert main(["bench", "--sessions", "1", "--seconds", "6", "--json", str(out), "--bound-ms", "60000"]) == 0
    numbers = json.loads(out.read_text())
    assert numbers["sessions"] == 1
    assert numbers["held"], numbers
    for key in ("first_partial_ms", "final_ms"):
        assert set(numbers[key]) == {"p50", "p95", "p99"}
        assert 0 <= numbers[key]["p50"] <= numbers[key]["p95"] <= numbers[key]["p99"]
    for key in ("rss_mb", "cpu_seconds_per_audio_second", "words"):
        assert numbers[key] > 0
    assert isinstance(numbers["rss_mb_per_session"], float)
    assert 0 < numbers["generator_cpu_share"] < 0.5
    assert "final p50/p95/p99" in capsys.readouterr().out


def test_server_that_is_not_there_means_not_held(tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    assert (
        main(["bench", "--sessions", "1", "--seconds", "1", "--json", str(out), "--server", "http://127.0.0.1:9"]) == 0
    )
    numbers = json.loads(out.read_text())
    assert not numbers["held"]
    assert "connection lost" in numbers["problems"][0]
    assert numbers["rss_mb"] is None


@pytest.mark.parametrize(
    "arguments",
    [["--sessions", "0"], ["--sessions", "65"], ["--seconds", "0"], ["--file", "nowhere.wav"], ["--json", "no/x.json"]],
)
def test_bounds_are_kept(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *arguments]) == 2
    assert "crosstalk: " in capsys.readouterr().err
