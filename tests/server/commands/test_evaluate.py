"""`crosstalk evaluate`: its arithmetic, and a tiny folder through the real server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from server.cli import main
from server.commands.evaluate import Clip, StreamedClip, find_all_clips, find_clips, result_of, summary_of, tables_of
from server.commands.streaming import StreamedFile
from server.protocol import AnyServerMessage, Ended, Final, Partial, Revision, WordMessage
from streaming_models.evaluate import ClipResult, parse_system
from streaming_models.score_report import scores_of
from streaming_models.scoring import ScoreError, SegLstRow

MOONSHINE = parse_system("moonshine")


def row(speaker: str, start: float, end: float, words: str) -> SegLstRow:
    return SegLstRow(session_id="c", speaker=speaker, start_time=start, end_time=end, words=words)


def captioned(clip: Clip, *spoken: tuple[str, str, int, int]) -> StreamedClip:
    """A clip captioned as (text, speaker, start_ms, end_ms), each its own turn, final 500 ms after its end."""
    messages: list[tuple[AnyServerMessage, float]] = []
    for number, (text, speaker, start_ms, end_ms) in enumerate(spoken):
        word = WordMessage(text, start_ms, end_ms, 1.0, -1, speaker, number)
        shown = Partial(session_id="c", turn=number, decided_ms=end_ms + 200, words=[word])
        final = Final(session_id="c", turn=number, decided_ms=end_ms + 500, words=[word], turn_ended=True)
        messages += [(message, message.decided_ms + 1000) for message in (shown, final)]
    return StreamedClip(clip, StreamedFile("c", audio_s=10.0, channels=1), messages)


def report_of(results: list[ClipResult], *, realtime: bool) -> dict[str, Any]:
    report: dict[str, Any] = scores_of({"moonshine": results}, realtime=realtime)["moonshine"]
    return report


def test_counts_are_summed_and_latencies_pooled() -> None:
    first = Clip("a", Path("a.wav"), [row("X", 0, 2, "one two"), row("Y", 3, 4, "three")])
    second = Clip("b", Path("b.wav"), [row("X", 0, 1, "four")])
    perfect = captioned(first, ("One", "S1", 0, 1000), ("two.", "S1", 1000, 2000), ("Three", "S2", 3000, 4000))
    wrong = captioned(second, ("fore", "S1", 0, 1000))
    results = [result_of(one, MOONSHINE, realtime=False) for one in (perfect, wrong)]
    report = report_of(results, realtime=False)
    assert report["clips"]["a"]["cpwer"] == {"errors": 0, "length": 3, "rate": 0.0}
    assert report["clips"]["b"]["cpwer"] == {"errors": 1, "length": 1, "rate": 1.0}
    for measure in ("cpwer", "orcwer", "tcpwer", "wer_alone"):
        assert report["total"][measure] == {"errors": 1, "length": 4, "rate": 0.25}
    assert report["total"]["der"] == {"errors": 0, "length": 4.0, "rate": 0.0}
    assert report["total"]["audio_s"] == 20.0
    assert report["total"]["latency_ms"]["algorithmic"] == {
        "first_shown_ms": {"p50": 200.0, "p90": 200.0, "p95": 200.0, "p99": 200.0, "count": 4},
        "final_ms": {"p50": 500.0, "p90": 500.0, "p95": 500.0, "p99": 500.0, "count": 4},
    }
    assert report["total"]["stability"]["turns"] == 4


def test_swapped_speakers_cost_cpwer_but_not_orcwer_unless_an_oracle_labels() -> None:
    clip = Clip("a", Path("a.wav"), [row("X", 0, 1, "one"), row("X", 1, 2, "two"), row("X", 2, 3, "three")])
    one = captioned(clip, ("one", "S1", 0, 1000), ("two", "S1", 1000, 2000), ("three", "S2", 2000, 3000))
    numbers = report_of([result_of(one, MOONSHINE, realtime=False)], realtime=False)["total"]
    assert numbers["cpwer"]["errors"] == 2  # one word missing under S1, one too many under S2
    assert numbers["orcwer"]["errors"] == 0
    assert numbers["der"] == {"errors": 1.0, "length": 3.0, "rate": 0.3333}
    mended = result_of(one, parse_system("moonshine@labels=oracle"), realtime=False)
    assert (mended.score.cpwer.errors, mended.score.der.errors) == (0, 0)


def test_a_second_pass_counts_unless_live_text_is_asked_for() -> None:
    one = captioned(Clip("a", Path("a.wav"), [row("X", 0, 1, "ship")]), ("sheep", "S1", 0, 1000))
    again = WordMessage("Ship", 0, 1000, 1.0, -1, "S1", 0)
    one.messages.append((Revision(session_id="c", turn=0, words=[again]), 4000))
    one.messages.append((Ended(session_id="c", audio_ms=3000), 4000))
    read_again = result_of(one, MOONSHINE, realtime=True)
    live = result_of(one, parse_system("moonshine@text=live"), realtime=True)
    assert (read_again.score.orcwer.errors, live.score.orcwer.errors) == (0, 1)
    assert (read_again.algorithmic.final_ms, live.algorithmic.final_ms) == ((2000,), (500,))
    assert (read_again.wall_clock.final_ms, live.wall_clock.final_ms) == ((3000,), (1500,))
    assert (read_again.stability.revised, live.stability.revised) == (1, 0)


def test_errors_against_an_empty_reference_have_no_rate_and_are_valid_json() -> None:
    result = result_of(captioned(Clip("a", Path("a.wav"), []), ("ghost", "S1", 0, 1000)), MOONSHINE, realtime=True)
    report = report_of([result], realtime=True)
    assert report["total"]["cpwer"] == {"errors": 1, "length": 0, "rate": None}
    assert report["total"]["latency_ms"]["wall_clock"]["final_ms"]["p95"] == 1500.0
    assert report["total"]["latency_ms"]["reference_wall_clock"]["final_ms"]["p95"] is None
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    tables_of("default", [result], realtime=True)
    summary_of({"default": [result]})


def test_folders_through_the_real_server(
    server_url: str, tmp_path: Path, story: NDArray[np.int16], capsys: pytest.CaptureFixture[str]
) -> None:
    words = "it was the best of times it was the worst of times"
    # Two channels: the story, and silence that spoils nothing.
    stereo = np.stack([story[:80_000], np.zeros(80_000, np.int16)], axis=1)
    for name, pcm in (("near", story[:80_000]), ("far", stereo)):
        (tmp_path / name).mkdir()
        soundfile.write(tmp_path / name / "one.flac", pcm, 16_000)
        (tmp_path / name / "one.seglst.json").write_text(json.dumps([row("X", 0.0, 5.0, words)]))
    times = [
        {"word": word, "speaker": "X", "start": n * 0.4, "end": n * 0.4 + 0.4} for n, word in enumerate(words.split())
    ]
    (tmp_path / "near" / "one.words.json").write_text(json.dumps(times))
    (tmp_path / "far" / "meetings.json").write_text('[{"session_id": "one", "array": "pair", "seed": 3}]')
    arguments = [str(tmp_path / "near"), str(tmp_path / "far"), "--server", server_url, "--jobs", "2"]
    for system in ("moonshine@channels=1", "moonshine@channels=1@labels=oracle"):
        arguments += ["--system", system]
    arguments += ["--json", str(tmp_path / "scores.json"), "--report", str(tmp_path / "out")]
    assert main(["evaluate", *arguments]) == 0
    whole = json.loads((tmp_path / "scores.json").read_text())
    report = whole["systems"]["moonshine@channels=1"]
    near, far = "near/one", "far/one"
    assert set(report["clips"]) == {near, far}
    for measure in ("cpwer", "orcwer", "tcpwer", "der"):
        one, two, total = (report["clips"][near][measure], report["clips"][far][measure], report["total"][measure])
        assert one == two  # the silent channel was not sent
        assert total["errors"] == pytest.approx(2 * one["errors"])
        assert total["length"] == pytest.approx(2 * one["length"])
    assert report["total"]["cpwer"]["rate"] < 0.7
    assert report["clips"][far]["facts"] == {
        "condition": "far", "talkers": 1, "overlap_ratio": 0.0, "duration_s": 5.0, "channels": 1, "array": "pair",
        "seed": 3,
    }  # fmt: skip
    assert whole["seeds"] == {far: 3}
    latency_ms = report["clips"][near]["latency_ms"]
    final_ms = latency_ms["algorithmic"]["final_ms"]
    assert 0 <= final_ms["p50"] <= final_ms["p95"] <= final_ms["p99"]
    assert latency_ms["reference"]["final_ms"]["count"] > 3
    assert report["clips"][far]["latency_ms"]["reference"]["final_ms"]["count"] == 0
    oracle = whole["systems"]["moonshine@channels=1@labels=oracle"]
    assert oracle["total"]["orcwer"]["length"] == report["total"]["orcwer"]["length"]
    assert "moonshine@channels=1" in (tmp_path / "out" / "report.md").read_text()
    shown = capsys.readouterr().out
    assert "cpWER" in shown
    assert "total" in shown


def test_clips_of_several_folders_have_the_shortest_name_that_no_other_has(tmp_path: Path) -> None:
    for name, stem in (("x", "a"), ("x", "b"), ("y", "a"), ("z/y", "a")):
        (tmp_path / name).mkdir(exist_ok=True, parents=True)
        (tmp_path / name / f"{stem}.seglst.json").write_text("[]")
        soundfile.write(tmp_path / name / f"{stem}.wav", np.zeros(160, np.int16), 16_000)
    clips = find_all_clips([tmp_path / "x", tmp_path / "y", tmp_path / "z" / "y"])
    assert [clip.name for clip in clips] == ["x/a", "b", f"{tmp_path}/y/a", f"{tmp_path}/z/y/a"]
    assert [clip.condition for clip in clips] == ["x", "x", "y", "y"]
    with pytest.raises(ScoreError, match="given twice"):
        find_all_clips([tmp_path / "x", tmp_path / "y" / ".." / "x"])


def test_a_system_that_means_nothing_is_refused_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(tmp_path), "--system", "moonshine@channels=3"]) == 2
    assert "@channels=1|2|4|8" in capsys.readouterr().err


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
