"""A session's transcript as SRT, WebVTT, SegLST JSON, RTTM or plain text.

Built from the durable messages alone, with revisions, late speaker corrections and names applied, so an export made
during the meeting, after it, or by another process reads the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable

from server.protocol import AnyServerMessage, WordMessage
from server.transcript import Piece, Transcript, pieces_of, transcript_of

MAX_CUE_CHARS = 84
"""Two lines of 42 characters: what subtitle guides ask for."""
MAX_CUE_MS = 7_000


def export(session_id: str, messages: Iterable[AnyServerMessage], form: str) -> str:
    """The transcript in one of FORMATS.

    Raises:
        KeyError: another format.
    """
    return FORMATS[form][1](session_id, transcript_of(messages))


def _pieces(transcript: Transcript) -> list[Piece]:
    pieces = [piece for turn in transcript.turns.values() for piece in pieces_of(turn) if piece.words]
    return sorted(pieces, key=lambda piece: (piece.start_ms, piece.end_ms))


def _cues(transcript: Transcript) -> list[tuple[int, int, str, str]]:
    """(start_ms, end_ms, speaker name, text): pieces cut to a length that can be read."""
    cues = []
    for piece in _pieces(transcript):
        name = transcript.name_of(piece.speaker)
        words: list[WordMessage] = []
        for word in piece.words:
            text = " ".join(w.text for w in [*words, word])
            if words and (len(text) > MAX_CUE_CHARS or word.end_ms - words[0].start_ms > MAX_CUE_MS):
                cues.append((words[0].start_ms, words[-1].end_ms, name, " ".join(w.text for w in words)))
                words = []
            words.append(word)
        cues.append((words[0].start_ms, words[-1].end_ms, name, " ".join(w.text for w in words)))
    return sorted(cues)


def _stamp(time_ms: int, decimal: str) -> str:
    seconds, ms = divmod(time_ms, 1000)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}{decimal}{ms:03d}"


def _srt(session_id: str, transcript: Transcript) -> str:
    blocks = [
        f"{number}\n{_stamp(start, ',')} --> {_stamp(end, ',')}\n{name}: {text}\n"
        for number, (start, end, name, text) in enumerate(_cues(transcript), 1)
    ]
    return "\n".join(blocks)


def _vtt(session_id: str, transcript: Transcript) -> str:
    def escaped(text: str) -> str:
        return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")

    blocks = ["WEBVTT\n"] + [
        f"{_stamp(start, '.')} --> {_stamp(end, '.')}\n<v {escaped(name)}>{escaped(text)}\n"
        for start, end, name, text in _cues(transcript)
    ]
    return "\n".join(blocks)


def _json(session_id: str, transcript: Transcript) -> str:
    return json.dumps(transcript.rows(session_id), indent=1, ensure_ascii=False) + "\n"


def _rttm(session_id: str, transcript: Transcript) -> str:
    # NIST RT-09: SPEAKER file channel onset duration <NA> <NA> name <NA> <NA>; names hold no white space.
    lines = [
        f"SPEAKER {session_id} 1 {piece.start_ms / 1000:.3f} {(piece.end_ms - piece.start_ms) / 1000:.3f}"
        f" <NA> <NA> {piece.speaker or 'unknown'} <NA> <NA>\n"
        for piece in _pieces(transcript)
    ]
    return "".join(lines)


def _txt(session_id: str, transcript: Transcript) -> str:
    return "".join(
        f"[{_stamp(piece.start_ms, '.')[:8]}] {transcript.name_of(piece.speaker)}: {piece.text}\n"
        for piece in _pieces(transcript)
    )


FORMATS: dict[str, tuple[str, Callable[[str, Transcript], str]]] = {
    "srt": ("application/x-subrip; charset=utf-8", _srt),
    "vtt": ("text/vtt; charset=utf-8", _vtt),
    "json": ("application/json", _json),
    "rttm": ("text/plain; charset=utf-8", _rttm),
    "txt": ("text/plain; charset=utf-8", _txt),
}
"""Format name -> (media type, how)."""
