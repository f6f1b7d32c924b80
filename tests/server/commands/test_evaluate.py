"""`crosstalk evaluate`: its arithmetic, and a tiny folder through the real server."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from server.cli import main
from server.commands.evaluate import Clip, find_clips, report_of, result_of, table_of
from server.commands.latency import LatencyMeter
from server.commands.streaming import StreamedFile
from server.protocol import Final, WordMessage
from streaming_models.scoring import ScoreError, SegLstRow


def row(speaker: str, start: float, end: float, words: str) -> SegLstRow:
    return SegLstRow(session_id="c", speaker=speaker, start_time=start, end_time=end, words=words)


def heard(*spoken: tuple[str, str, int, int]) -> tuple[StreamedFile, LatencyMeter]:
    """A file whose captions are (text, speaker, start_ms, end_ms), each its own turn, final 500 ms after its end."""
    streamed, meter = StreamedFile("c", audio_s=10.0), LatencyMeter(same_text=True)
    for number, (text, speaker, start_ms, end_ms) in enumerate(spoken):
        word = WordMessage(text, start_ms, end_ms, 1.0, -1, speaker, number)
        message = Final(session_id="c", turn=number, decided_ms=end_ms + 500, words=[word], turn_ended=True)
        streamed.transcript.apply(message)
        meter.take(message, message.decided_ms)
    return streamed, meter


def test_counts_are_summed_and_latencies_pooled() -> None:
    clips = [
        Clip("a", Path("a.wav"), [row("X", 0, 2, "one two"), row("Y", 3, 4, "three")]),
        Clip("b", Path("b.wav"), [row("X", 0, 1, "four")]),
    ]
    perfect = heard(("One", "S1", 0, 1000), ("two.", "S1", 1000, 2000), ("Three", "S2", 3000, 4000))
    wrong = heard(("fore", "S1", 0, 1000))
    silent = LatencyMeter()
    results = [result_of(c, s, m, silent) for c, (s, m) in zip(clips, (perfect, wrong), strict=True)]
    report = report_of(results, realtime=False)
    assert report["clips"]["a"]["cpwer"] == {"errors": 0, "length": 3, "rate": 0.0}
    assert report["clips"]["b"]["cpwer"] == {"errors": 1, "length": 1, "rate": 1.0}
    for measure in ("cpwer", "orcwer", "tcpwer"):
        assert report["total"][measure] == {"errors": 1, "length": 4, "rate": 0.25}
    assert report["total"]["der"] == {"errors": 0, "length": 4.0, "rate": 0.0}
    assert report["total"]["audio_s"] == 20.0
    assert report["total"]["latency_ms"] == {
        "algorithmic": {
            "first_shown_ms": {"p50": 500.0, "p95": 500.0, "p99": 500.0},
            "final_ms": {"p50": 500.0, "p95": 500.0, "p99": 500.0},
        }
    }


def test_swapped_speakers_cost_cpwer_but_not_orcwer() -> None:
    clip = Clip("a", Path("a.wav"), [row("X", 0, 1, "one"), row("X", 1, 2, "two"), row("X", 2, 3, "three")])
    streamed, meter = heard(("one", "S1", 0, 1000), ("two", "S1", 1000, 2000), ("three", "S2", 2000, 3000))
    numbers = report_of([result_of(clip, streamed, meter, LatencyMeter())], realtime=False)["total"]
    assert numbers["cpwer"]["errors"] == 2  # one word missing under S1, one too many under S2
    assert numbers["orcwer"]["errors"] == 0
    assert numbers["der"] == {"errors": 1.0, "length": 3.0, "rate": 0.3333}


def test_errors_against_an_empty_reference_have_no_rate_and_are_valid_json() -> None:
    streamed, meter = heard(("ghost", "S1", 0, 1000))
    report = report_of([result_of(Clip("a", Path("a.wav"), []), streamed, meter, LatencyMeter())], realtime=True)
    assert report["total"]["cpwer"] == {"errors": 1, "length": 0, "rate": None}
    assert report["total"]["latency_ms"]["wall_clock"]["final_ms"]["p95"] is None
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    table_of("default", report)


def test_folder_through_the_real_server(
    server_url: str, tmp_path: Path, story: NDArray[np.int16], capsys: pytest.CaptureFixture[str]
) -> None:
    words = "it was the best of times it was the worst of times"
    for stem in ("one", "two"):
        soundfile.write(tmp_path / f"{stem}.flac", story[:80_000], 16_000)
        (tmp_path / f"{stem}.seglst.json").write_text(json.dumps([row("X", 0.0, 5.0, words)]))
    (tmp_path / "one.words.json").write_text("[]")
    out = tmp_path / "scores.json"
    assert main(["evaluate", str(tmp_path), "--json", str(out), "--server", server_url, "--jobs", "2"]) == 0
    report = json.loads(out.read_text())["systems"]["default"]
    assert set(report["clips"]) == {"one", "two"}
    for measure in ("cpwer", "orcwer", "tcpwer", "der"):
        one, two, total = (report["clips"]["one"][measure], report["clips"]["two"][measure], report["total"][measure])
        assert one == two
        assert total["errors"] == pytest.approx(2 * one["errors"])
        assert total["length"] == pytest.approx(2 * one["length"])
    assert report["total"]["cpwer"]["rate"] < 0.7
    final_ms = report["total"]["latency_ms"]["algorithmic"]["final_ms"]
    assert 0 <= final_ms["p50"] <= final_ms["p95"] <= final_ms["p99"]
    shown = capsys.readouterr().out
    assert "cpWER" in shown
    assert "total" in shown


def test_folder_that_cannot_be_scored_is_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ScoreError, match="no such folder"):
        find_clips(tmp_path / "nowhere")
    with pytest.raises(ScoreError, match=r"no STEM\.seglst\.json in it"):
        find_clips(tmp_path)
    (tmp_path / "a.seglst.json").write_text("[]")
    with pytest.raises(ScoreError, match=r"expected one audio file a\.\* beside it, found none"):
        find_clips(tmp_path)
    soundfile.write(tmp_path / "a.wav", np.zeros(160, np.int16), 16_000)
    assert [clip.audio.name for clip in find_clips(tmp_path)] == ["a.wav"]
    soundfile.write(tmp_path / "a.flac", np.zeros(160, np.int16), 16_000)
    assert main(["evaluate", str(tmp_path)]) == 2
    assert "found a.flac, a.wav" in capsys.readouterr().err
