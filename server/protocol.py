"""The wire protocol, version 1: what clients and server say to each other, and how it is checked.

Standard library only, because the client shares this file. It refuses to touch sockets, audio maths or sessions.

A client opens `WS /v1/stream` and sends one text message `start`, then binary audio frames, then the text message
`end`. The server answers `started`, `ack`s the audio, and sends captions; after `end` everything that was said is
captioned before the server's own `end` and the close with code 1000. Viewers open
`WS /v1/sessions/{id}/captions?since=SEQ&revisions=1` and get `session`, the history after SEQ, then what is said live.

A binary frame is a 12-byte header, little-endian, then interleaved samples:

    uint32 frame_seq      0, 1, 2, ...; wraps at 2**32
    uint64 first_sample   index of the frame's first sample (per channel) in the stream since `start`

A frame whose `first_sample` is beyond the expected one after all earlier frames came is a hole: a `gap` event.
Frames may arrive reordered within a small window; one that came before is dropped and counted.
"""

from __future__ import annotations

import json
import re
import struct
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from server.errors import BadMessage, MessageTooLarge, UnknownVersion, UnsupportedAudio

PROTOCOL_VERSION = 1
MIN_SAMPLE_RATE_HZ, MAX_SAMPLE_RATE_HZ = 8_000, 48_000
MAX_CHANNELS = 16
MAX_FRAME_BYTES = 1 << 20  # 1 MiB: 0.68 s of 16 channels of float32 at 24 kHz; live frames are 20-100 ms
MAX_TEXT_BYTES = 64 << 10
MAX_VOCABULARY = 200
MAX_NAME_CHARS = 64
MAX_SEQ = 2**53  # whole numbers that every JSON reader holds exactly
FRAME_HEADER = struct.Struct("<IQ")

Encoding = Literal["s16le", "f32le"]
Layout = Literal["auto", "array", "close_talk"]
LabelState = Literal["provisional", "final"]
SAMPLE_BYTES: dict[str, int] = {"s16le": 2, "f32le": 4}

SESSION_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
SPEAKER_LABEL = re.compile(r"S[1-9][0-9]{0,2}")


# --- from the client -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AudioFormat:
    """How the binary frames are to be read.

    `geometry_m` holds one (x, y, z) in metres per channel, any origin; `channel_names` one display name per channel
    for `close_talk` recordings, "" for none.
    """

    sample_rate_hz: int = 16_000
    channels: int = 1
    encoding: Encoding = "s16le"
    layout: Layout = "auto"
    geometry_m: tuple[tuple[float, float, float], ...] | None = None
    channel_names: tuple[str, ...] = ()

    @property
    def frame_bytes(self) -> int:
        """Bytes of one sample of all channels."""
        return self.channels * SAMPLE_BYTES[self.encoding]


@dataclass(frozen=True)
class Start:
    """First message of a stream.

    `session_id` empty: the server makes one. `vocabulary`: names and terms of the meeting, spelt as they shall be
    written, to be favoured where they are nearly as likely as something else. `resume_token`: the one from `started`,
    to go on with a session whose connection was lost; the server then says in `started.received_samples` from where
    audio must be sent again and repeats the durable messages after `last_seq`. `revisions`: send `revision` messages
    too; they came after version 1 was first spoken, so only those who ask for them get them.
    """

    audio: AudioFormat
    session_id: str = ""
    language: str = "en"
    vocabulary: tuple[str, ...] = ()
    title: str = ""
    system: str = ""
    resume_token: str = ""
    last_seq: int = 0
    revisions: bool = False


@dataclass(frozen=True)
class End:
    """No more audio: flush, then close."""


ClientMessage = Start | End


@dataclass(frozen=True)
class AudioFrame:
    """A binary message taken apart; `payload` is whole samples of all channels."""

    frame_seq: int
    first_sample: int
    payload: bytes


def _shown(value: object) -> str:
    return json.dumps(value, default=str)[:120]


def _take(source: dict[str, Any], name: str, kind: type | tuple[type, ...], default: Any = ..., *, where: str) -> Any:
    if name not in source:
        if default is ...:
            raise BadMessage(
                f"{where} has no {name!r}", expected=f"a field {name!r}", received=f"fields {sorted(source)}"
            )
        return default
    value = source[name]
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        names = " or ".join(k.__name__ for k in kinds)
        raise BadMessage(f"{where}.{name} has the wrong type", expected=names, received=_shown(value))
    return value


def _no_others(source: dict[str, Any], known: set[str], where: str) -> None:
    unknown = sorted(set(source) - known)
    if unknown:
        raise BadMessage(f"{where} has unknown fields", expected=f"fields among {sorted(known)}", received=str(unknown))


def check_session_id(value: str) -> str:
    """The id itself.

    Raises:
        BadMessage: characters that could leave a key or a path, or too long.
    """
    if not SESSION_ID.fullmatch(value):
        raise BadMessage(
            "not a session id",
            expected="1-64 letters, digits, '-' or '_', beginning with a letter or digit",
            received=_shown(value),
        )
    return value


def check_display_name(value: object) -> str:
    """A person's name as shown, stripped.

    Raises:
        BadMessage: not text, too long, or with control characters.
    """
    expected = f"text of at most {MAX_NAME_CHARS} characters without control characters"
    if not isinstance(value, str):
        raise BadMessage("not a name", expected=expected, received=_shown(value))
    name = value.strip()
    if len(name) > MAX_NAME_CHARS or any(not c.isprintable() for c in name):
        raise BadMessage("not a name", expected=expected, received=_shown(value))
    return name


def check_vocabulary(phrases: list[Any]) -> tuple[str, ...]:
    """The names and terms of `start.vocabulary`, each stripped.

    Raises:
        BadMessage: too many, or one that is no `check_display_name`.
    """
    if len(phrases) > MAX_VOCABULARY:
        raise BadMessage(
            "vocabulary too long",
            expected=f"at most {MAX_VOCABULARY} phrases",
            received=f"{len(phrases)} phrases",
        )
    return tuple(check_display_name(phrase) for phrase in phrases)


def parse_audio_format(source: dict[str, Any]) -> AudioFormat:
    """Check the `audio` object of `start`.

    Raises:
        BadMessage: missing, unknown or ill-typed fields.
        UnsupportedAudio: a rate, channel count, encoding, layout or geometry outside the supported range.
    """
    where = "start.audio"
    known = {"sample_rate_hz", "channels", "encoding", "layout", "geometry_m", "channel_names"}
    _no_others(source, known, where)
    rate = _take(source, "sample_rate_hz", int, where=where)
    if not MIN_SAMPLE_RATE_HZ <= rate <= MAX_SAMPLE_RATE_HZ:
        raise UnsupportedAudio(
            "sample rate out of range",
            expected=f"{MIN_SAMPLE_RATE_HZ}-{MAX_SAMPLE_RATE_HZ} Hz",
            received=f"{rate} Hz",
        )
    channels = _take(source, "channels", int, where=where)
    if not 1 <= channels <= MAX_CHANNELS:
        raise UnsupportedAudio(
            "channel count out of range",
            expected=f"1-{MAX_CHANNELS} channels",
            received=f"{channels} channels",
        )
    encoding = _take(source, "encoding", str, "s16le", where=where)
    if encoding not in get_args(Encoding):
        raise UnsupportedAudio("unknown encoding", expected=" or ".join(get_args(Encoding)), received=_shown(encoding))
    layout = _take(source, "layout", str, "auto", where=where)
    if layout not in get_args(Layout):
        raise UnsupportedAudio("unknown layout", expected=" or ".join(get_args(Layout)), received=_shown(layout))
    geometry = _take(source, "geometry_m", (list, type(None)), None, where=where)
    names = _take(source, "channel_names", list, [], where=where)
    if names and len(names) != channels:
        raise BadMessage(
            "channel_names does not match",
            expected=f"{channels} names or none",
            received=f"{len(names)} names",
        )
    return AudioFormat(
        sample_rate_hz=rate,
        channels=channels,
        encoding=encoding,
        layout=layout,
        geometry_m=None if geometry is None else _parse_geometry(geometry, channels),
        channel_names=tuple(check_display_name(n) for n in names),
    )


def _parse_geometry(rows: list[Any], channels: int) -> tuple[tuple[float, float, float], ...]:
    expected = f"{channels} rows of 3 finite numbers in metres, each within 100 m"
    result = []
    for row in rows:
        numbers = isinstance(row, list) and len(row) == 3
        if not numbers or not all(
            isinstance(v, int | float) and not isinstance(v, bool) and abs(v) <= 100
            for v in row  # NaN is not <=
        ):
            raise UnsupportedAudio("not a microphone position", expected=expected, received=_shown(row))
        result.append((float(row[0]), float(row[1]), float(row[2])))
    if len(result) != channels:
        raise UnsupportedAudio("geometry does not match", expected=expected, received=f"{len(result)} rows")
    return tuple(result)


def parse_client_message(text: str) -> ClientMessage:
    """A text message of a stream.

    Raises:
        BadMessage: not a JSON object, an unknown type, missing, unknown or absurd fields.
        MessageTooLarge: over MAX_TEXT_BYTES.
        UnknownVersion: `start.protocol` is not PROTOCOL_VERSION.
        UnsupportedAudio: see `parse_audio_format`.
    """
    size = len(text.encode(errors="surrogatepass"))
    if size > MAX_TEXT_BYTES:
        raise MessageTooLarge(
            "text message too large",
            expected=f"at most {MAX_TEXT_BYTES} bytes",
            received=f"{size} bytes",
        )
    try:
        source = json.loads(text)
    except (ValueError, RecursionError):
        raise BadMessage("not JSON", expected="a JSON object with a field 'type'", received=_shown(text)) from None
    if not isinstance(source, dict):
        raise BadMessage("not a JSON object", expected="a JSON object with a field 'type'", received=_shown(source))
    kind = _take(source, "type", str, where="message")
    if kind == "end":
        _no_others(source, {"type"}, "end")
        return End()
    if kind != "start":
        raise BadMessage("unknown message type", expected="'start' or 'end'", received=_shown(kind))
    version = _take(source, "protocol", int, where="start")
    if version != PROTOCOL_VERSION:
        raise UnknownVersion("unknown protocol version", expected=str(PROTOCOL_VERSION), received=str(version))
    fields = {
        "type",
        "protocol",
        "session_id",
        "audio",
        "language",
        "vocabulary",
        "title",
        "system",
        "resume_token",
        "last_seq",
        "revisions",
    }
    _no_others(source, fields, "start")
    session_id = _take(source, "session_id", str, "", where="start")
    language = _take(source, "language", str, "en", where="start")
    if not re.fullmatch(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*", language):
        raise BadMessage("not a language tag", expected="a BCP 47 tag such as 'en'", received=_shown(language))
    last_seq = _take(source, "last_seq", int, 0, where="start")
    if not 0 <= last_seq <= MAX_SEQ:
        raise BadMessage("start.last_seq out of range", expected=f"0 to {MAX_SEQ}", received=_shown(last_seq))
    return Start(
        audio=parse_audio_format(_take(source, "audio", dict, where="start")),
        session_id=check_session_id(session_id) if session_id else "",
        language=language,
        vocabulary=check_vocabulary(_take(source, "vocabulary", list, [], where="start")),
        title=check_display_name(_take(source, "title", str, "", where="start")),
        system=check_display_name(_take(source, "system", str, "", where="start")),
        resume_token=check_display_name(_take(source, "resume_token", str, "", where="start")),
        last_seq=last_seq,
        revisions=_take(source, "revisions", bool, False, where="start"),
    )


def start_message(start: Start) -> str:
    """`start` as sent by a client."""
    return json.dumps({"type": "start", "protocol": PROTOCOL_VERSION, **asdict(start)})


def end_message() -> str:
    """`end` as sent by a client."""
    return json.dumps({"type": "end"})


def pack_frame(frame: AudioFrame) -> bytes:
    """A binary frame as sent by a client."""
    return FRAME_HEADER.pack(frame.frame_seq & 0xFFFFFFFF, frame.first_sample) + frame.payload


def unpack_frame(data: bytes, audio: AudioFormat) -> AudioFrame:
    """A binary frame as received.

    Raises:
        MessageTooLarge: over MAX_FRAME_BYTES.
        UnsupportedAudio: no header, no samples, or bytes that are not whole samples of all channels.
    """
    if len(data) > MAX_FRAME_BYTES:
        raise MessageTooLarge(
            "audio frame too large",
            expected=f"at most {MAX_FRAME_BYTES} bytes",
            received=f"{len(data)} bytes",
        )
    body = len(data) - FRAME_HEADER.size
    if body <= 0 or body % audio.frame_bytes:
        raise UnsupportedAudio(
            "not whole samples",
            expected=f"a {FRAME_HEADER.size}-byte header and a positive multiple of {audio.frame_bytes} bytes"
            f" ({audio.channels} channels of {audio.encoding})",
            received=f"{len(data)} bytes",
        )
    frame_seq, first_sample = FRAME_HEADER.unpack_from(data)
    return AudioFrame(frame_seq, first_sample, data[FRAME_HEADER.size :])


# --- from the server -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WordMessage:
    """One word. `word_id` counts the final words of a session from 0; -1 in a partial.

    `channel` is the microphone it came from, -1 when the channels were combined. `speaker` is a session label
    (`S1`, ...) or "" while unknown.
    """

    text: str
    start_ms: int
    end_ms: int
    confidence: float
    channel: int
    speaker: str
    word_id: int = -1


@dataclass(frozen=True, kw_only=True)
class ServerMessage:
    """What every server message carries.

    `seq` numbers the durable messages of a session from 1 (see DURABLE); the others repeat the last durable one.
    `audio_ms` is the session's audio clock: all audio before it has been received, or is named in a `gap`.
    """

    session_id: str
    seq: int = 0
    audio_ms: int = 0


@dataclass(frozen=True, kw_only=True)
class Started(ServerMessage):
    """The stream is open. `received_samples` is where the client must go on (0 for a new session)."""

    type: Literal["started"] = "started"
    protocol: int = PROTOCOL_VERSION
    system: str = ""
    resume_token: str = ""
    received_samples: int = 0


@dataclass(frozen=True, kw_only=True)
class Session(ServerMessage):
    """First message to a viewer: the session as it is now; history from `since` follows."""

    type: Literal["session"] = "session"
    title: str = ""
    state: Literal["created", "live", "ended"] = "created"
    names: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Ack(ServerMessage):
    """All samples before `received_samples` (of the client's own rate) are safe with the server."""

    type: Literal["ack"] = "ack"
    frame_seq: int = 0
    received_samples: int = 0


@dataclass(frozen=True, kw_only=True)
class Partial(ServerMessage):
    """The tail of an open turn, which may still change; replaces the turn's earlier partial.

    `decided_ms`: the recogniser's audio clock when it decided; minus a word's `end_ms` it is the latency that
    does not depend on the machine.
    """

    type: Literal["partial"] = "partial"
    turn: int = 0
    decided_ms: int = 0
    words: list[WordMessage] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Final(ServerMessage):
    """Words appended to a turn; they stand, but for a `revision`. `turn_ended`: nothing more will be appended.

    Turns that are open at once are people who speak at once. `direction_deg`: azimuth of the talker,
    counter-clockwise from +x of the given geometry; None when unknown.
    """

    type: Literal["final"] = "final"
    turn: int = 0
    decided_ms: int = 0
    words: list[WordMessage] = field(default_factory=list)
    turn_ended: bool = False
    direction_deg: float | None = None


@dataclass(frozen=True, kw_only=True)
class Revision(ServerMessage):
    """A turn that has ended, read once more: `words` take the place of all its words.

    It may come again for the same turn; without words, when they turned out to be another's; and for a turn that was
    not heard of before, when it is known only later who said what. A word that stands where one stood before has that
    word's `word_id` and label, an added one a new `word_id`; one that is not there any more is gone. Sent only to those
    who ask (see `Start.revisions`).
    """

    type: Literal["revision"] = "revision"
    turn: int = 0
    words: list[WordMessage] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Speaker(ServerMessage):
    """A label corrected late (words `first_word_id`..`last_word_id`, inclusive). It changes no text."""

    type: Literal["speaker"] = "speaker"
    first_word_id: int = 0
    last_word_id: int = 0
    speaker: str = ""
    state: LabelState = "final"


@dataclass(frozen=True, kw_only=True)
class SpeakerName(ServerMessage):
    """Somebody gave a label a display name; "" takes it away."""

    type: Literal["speaker_name"] = "speaker_name"
    speaker: str = ""
    name: str = ""


@dataclass(frozen=True, kw_only=True)
class Gap(ServerMessage):
    """Audio that never came, or that could not be captioned."""

    type: Literal["gap"] = "gap"
    start_ms: int = 0
    end_ms: int = 0
    reason: str = "lost"


@dataclass(frozen=True, kw_only=True)
class Warning(ServerMessage):  # noqa: A001 -- the protocol's word for it
    """Something to know: a dead or clipping microphone, an unsupported wish, a slow server."""

    type: Literal["warning"] = "warning"
    code: str = ""
    message: str = ""
    channel: int = -1


@dataclass(frozen=True, kw_only=True)
class Levels(ServerMessage):
    """Once a second: level per channel in dBFS (-120 for silence) and the layout in use."""

    type: Literal["levels"] = "levels"
    levels_db: list[float] = field(default_factory=list)
    dead_channels: list[int] = field(default_factory=list)
    layout: str = "array"


@dataclass(frozen=True, kw_only=True)
class Error(ServerMessage):
    """The last message before a close with the error's code."""

    type: Literal["error"] = "error"
    code: str = ""
    message: str = ""
    expected: str | None = None
    received: str | None = None
    retry_after_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Ended(ServerMessage):
    """Everything said is captioned. `reason`: finished, vanished (client), deleted, shutdown."""

    type: Literal["end"] = "end"
    reason: str = "finished"


AnyServerMessage = (
    Started
    | Session
    | Ack
    | Partial
    | Final
    | Revision
    | Speaker
    | SpeakerName
    | Gap
    | Warning
    | Levels
    | Error
    | Ended
)
DURABLE = ("final", "revision", "speaker", "speaker_name", "gap", "warning", "end")
"""Types that are kept in the caption stream and replayed to late viewers, each with a `seq` of its own."""

_KINDS: dict[str, type[ServerMessage]] = {
    kind.__dataclass_fields__["type"].default: kind for kind in get_args(AnyServerMessage)
}


def encode(message: ServerMessage) -> str:
    """A server message as JSON text; fields that are None are left out."""
    return json.dumps({k: v for k, v in asdict(message).items() if v is not None}, separators=(",", ":"))


def encode_unnumbered(message: ServerMessage) -> str:
    """The same without `seq`, which the caption store gives (`server.state.with_seq`)."""
    return encode(message).replace('"seq":0,', "", 1)


def is_revision(text: str) -> bool:
    """Whether a message as encoded above is a `revision`: words can't hold these characters unescaped."""
    return '"type":"revision"' in text


def decode(text: str) -> AnyServerMessage:
    """A server message as a client reads it. Unknown fields are ignored, so that a newer server can be read.

    Raises:
        BadMessage: not JSON, a type that this version does not know, or a field that it needs is missing.
    """
    try:
        source = json.loads(text)
        kind = _KINDS[source["type"]]
        values = _known(source, kind)
        if "words" in values:
            values["words"] = [WordMessage(**_known(word, WordMessage)) for word in values["words"]]
        return kind(**values)  # type: ignore[return-value]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise BadMessage(
            "not a server message", expected=f"a type among {sorted(_KINDS)}", received=_shown(text)
        ) from None


def _known(source: dict[str, Any], kind: type[ServerMessage | WordMessage]) -> dict[str, Any]:
    return {k: v for k, v in source.items() if k in kind.__dataclass_fields__}
