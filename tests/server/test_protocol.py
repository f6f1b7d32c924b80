"""The wire protocol: every bound of every field, both directions, and what arbitrary input may do (refuse it)."""

from __future__ import annotations

import json
import math
from dataclasses import fields
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.errors import BadMessage, MessageTooLarge, ProtocolError, UnknownVersion, UnsupportedAudio
from server.protocol import (
    DURABLE,
    FRAME_HEADER,
    MAX_FRAME_BYTES,
    MAX_TEXT_BYTES,
    PROTOCOL_VERSION,
    SESSION_ID,
    Ack,
    AnyServerMessage,
    AudioFormat,
    AudioFrame,
    End,
    Ended,
    Error,
    Final,
    Gap,
    Levels,
    Partial,
    Revision,
    Session,
    Speaker,
    SpeakerName,
    Start,
    Started,
    WordMessage,
    check_display_name,
    check_session_id,
    decode,
    encode,
    end_message,
    is_revision,
    pack_frame,
    parse_client_message,
    start_message,
    unpack_frame,
)
from server.protocol import Warning as WarningMessage

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(), children, max_size=4),
    max_leaves=12,
)
HUGE = 10**4000
"""An integer that JSON can carry and a float cannot."""


def start_text(audio_changes: dict[str, Any] | None = None, /, **changes: Any) -> str:
    """A `start` with its `audio` or other fields changed; None takes a field out."""
    form = {"sample_rate_hz": 16_000, "channels": 1, "encoding": "s16le"} | (audio_changes or {})
    message = {"type": "start", "protocol": PROTOCOL_VERSION, "audio": form} | changes
    return json.dumps({k: v for k, v in message.items() if v is not None})


def started(audio_changes: dict[str, Any] | None = None, /, **changes: Any) -> Start:
    message = parse_client_message(start_text(audio_changes, **changes))
    assert isinstance(message, Start)
    return message


# --- start ---------------------------------------------------------------------------------------------------------


def test_smallest_start_takes_every_default() -> None:
    message = parse_client_message('{"type":"start","protocol":1,"audio":{"sample_rate_hz":16000,"channels":2}}')
    assert message == Start(AudioFormat(16_000, 2))


def test_end_is_read() -> None:
    assert parse_client_message(end_message()) == End()


names = st.text(st.characters(categories=["L", "N", "P"]), max_size=64)


@given(
    rate_hz=st.integers(8_000, 48_000),
    encoding=st.sampled_from(["s16le", "f32le"]),
    layout=st.sampled_from(["auto", "array", "close_talk"]),
    geometry=st.none() | st.lists(st.tuples(*[st.floats(-100, 100)] * 3), min_size=1, max_size=16),
    names=st.lists(names, min_size=16, max_size=16),
    session_id=st.from_regex(SESSION_ID, fullmatch=True),
    vocabulary=st.lists(names, max_size=5),
    title=names,
    last_seq=st.integers(0, 2**53),
)
def test_start_survives_the_round_trip(
    rate_hz: int,
    encoding: Any,
    layout: Any,
    geometry: list[tuple[float, float, float]] | None,
    names: list[str],
    session_id: str,
    vocabulary: list[str],
    title: str,
    last_seq: int,
) -> None:
    channels = 3 if geometry is None else len(geometry)
    start = Start(
        AudioFormat(
            rate_hz, channels, encoding, layout, None if geometry is None else tuple(geometry), tuple(names[:channels])
        ),
        session_id=session_id,
        vocabulary=tuple(vocabulary),
        title=title,
        last_seq=last_seq,
    )
    assert parse_client_message(start_message(start)) == start


@pytest.mark.parametrize("field", ["type", "protocol", "audio"])
def test_missing_field_is_named(field: str) -> None:
    with pytest.raises(BadMessage) as caught:
        parse_client_message(start_text(**{field: None}))
    assert repr(field) in caught.value.message
    assert caught.value.expected == f"a field {field!r}"
    assert "fields [" in str(caught.value.received)


@pytest.mark.parametrize("field", ["sample_rate_hz", "channels"])
def test_missing_audio_field_is_named(field: str) -> None:
    source = json.loads(start_text())
    del source["audio"][field]
    with pytest.raises(BadMessage, match=f"start.audio has no '{field}'"):
        parse_client_message(json.dumps(source))


def test_unknown_fields_are_refused_by_name() -> None:
    with pytest.raises(BadMessage, match=r"start has unknown fields.*received \['colour'\]"):
        parse_client_message(start_text(colour="red"))
    with pytest.raises(BadMessage, match=r"start\.audio has unknown fields.*received \['bits'\]"):
        parse_client_message(start_text({"bits": 16}))
    with pytest.raises(BadMessage, match="end has unknown fields"):
        parse_client_message('{"type":"end","now":true}')


@pytest.mark.parametrize("version", [0, 2, -1, HUGE])
def test_other_protocol_version_is_refused_with_both_versions(version: int) -> None:
    with pytest.raises(UnknownVersion) as caught:
        parse_client_message(start_text(protocol=version))
    assert caught.value.expected == "1"
    assert str(caught.value.received) == str(version)[:200]
    assert caught.value.close_code == 4426


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("protocol", "1"),
        ("protocol", True),
        ("protocol", 1.0),
        ("audio", []),
        ("audio", "s16le"),
        ("session_id", 7),
        ("language", ["en"]),
        ("vocabulary", "word"),
        ("vocabulary", [1]),
        ("title", {}),
        ("system", 1),
        ("resume_token", 1),
        ("last_seq", "1"),
        ("last_seq", True),
        ("last_seq", 1.5),
    ],
)
def test_wrong_type_is_refused_with_expected_and_received(field: str, value: Any) -> None:
    with pytest.raises(BadMessage) as caught:
        parse_client_message(start_text(**{field: value}))
    assert caught.value.expected
    assert caught.value.received == json.dumps(value) or field == "vocabulary"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sample_rate_hz", "16000"),
        ("sample_rate_hz", 16_000.0),
        ("sample_rate_hz", True),
        ("channels", None),
        ("channels", "2"),
        ("encoding", 16),
        ("layout", 1),
        ("geometry_m", "square"),
        ("channel_names", "Ann"),
        ("channel_names", [3]),
    ],
)
def test_wrong_type_in_audio_is_refused(field: str, value: Any) -> None:
    with pytest.raises(BadMessage, match="expected"):
        parse_client_message(start_text({field: value}))


@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 48_000])
def test_rates_within_the_bounds_are_taken(rate_hz: int) -> None:
    assert started({"sample_rate_hz": rate_hz}).audio.sample_rate_hz == rate_hz


@pytest.mark.parametrize("rate_hz", [-16_000, 0, 7_000, 7_999, 48_001, 96_000, HUGE])
def test_rate_out_of_bounds_is_refused_with_both_numbers(rate_hz: int) -> None:
    with pytest.raises(UnsupportedAudio) as caught:
        parse_client_message(start_text({"sample_rate_hz": rate_hz}))
    assert caught.value.expected == "8000-48000 Hz"
    assert str(caught.value.received).startswith(str(rate_hz)[:190])
    assert caught.value.close_code == 4415


@pytest.mark.parametrize("channels", [1, 16])
def test_channel_counts_within_the_bounds_are_taken(channels: int) -> None:
    assert started({"channels": channels}).audio.channels == channels


@pytest.mark.parametrize("channels", [-1, 0, 17, HUGE])
def test_channel_count_out_of_bounds_is_refused(channels: int) -> None:
    with pytest.raises(UnsupportedAudio, match="expected 1-16 channels; received"):
        parse_client_message(start_text({"channels": channels}))


@pytest.mark.parametrize(("field", "value"), [("encoding", "mp3"), ("encoding", ""), ("layout", "ring")])
def test_unknown_choice_is_refused_with_the_choices(field: str, value: str) -> None:
    with pytest.raises(UnsupportedAudio, match=f'unknown {field}; expected .* or .*; received "{value}"'):
        parse_client_message(start_text({field: value}))


@pytest.mark.parametrize(
    "geometry",
    [
        [],
        [[0, 0, 0]],
        [[0, 0, 0]] * 3,
        [[0, 0], [0, 0]],
        [[0, 0, 0], [0, 0, "1"]],
        [[0, 0, 0], [0, 0, True]],
        [[0, 0, 0], [0, 0, 100.1]],
        [[0, 0, 0], [0, 0, math.nan]],
        [[0, 0, 0], [0, 0, -math.inf]],
        [[0, 0, 0], [0, 0, HUGE]],
        [[0, 0, 0], None],
    ],
)
def test_geometry_that_cannot_be_is_refused(geometry: list[Any]) -> None:
    with pytest.raises(UnsupportedAudio, match="expected 2 rows of 3 finite numbers in metres"):
        parse_client_message(start_text({"channels": 2, "geometry_m": geometry}))


def test_geometry_of_whole_numbers_becomes_floats() -> None:
    assert started({"channels": 2, "geometry_m": [[0, 0, 0], [1, 0, -100]]}).audio.geometry_m == (
        (0.0, 0.0, 0.0),
        (1.0, 0.0, -100.0),
    )


def test_channel_names_are_one_per_channel_or_none() -> None:
    assert started({"channels": 2, "channel_names": ["Ann", " Bo "]}).audio.channel_names == ("Ann", "Bo")
    assert started({"channels": 2, "channel_names": []}).audio.channel_names == ()
    with pytest.raises(BadMessage, match="expected 2 names or none; received 1 names"):
        parse_client_message(start_text({"channels": 2, "channel_names": ["Ann"]}))


@pytest.mark.parametrize("language", ["en", "en-GB", "de", "zh-Hans-CN"])
def test_language_tags_are_taken(language: str) -> None:
    assert started(language=language).language == language


@pytest.mark.parametrize("language", ["", "e", "english", "en_GB", "en-", "en\n", "../en"])
def test_what_is_no_language_tag_is_refused(language: str) -> None:
    with pytest.raises(BadMessage, match="not a language tag"):
        parse_client_message(start_text(language=language))


def test_vocabulary_is_bounded() -> None:
    assert len(started(vocabulary=["word"] * 200).vocabulary) == 200
    with pytest.raises(BadMessage, match="at most 200 phrases; received 201 phrases"):
        parse_client_message(start_text(vocabulary=["word"] * 201))
    with pytest.raises(BadMessage, match="at most 64 characters"):
        parse_client_message(start_text(vocabulary=["w" * 65]))


@pytest.mark.parametrize("field", ["title", "system", "resume_token"])
def test_texts_are_bounded_and_free_of_control_characters(field: str) -> None:
    assert getattr(started(**{field: "x" * 64}), field) == "x" * 64
    for value in ("x" * 65, "a\nb", "a\x00", "\x1b[31mred", "\ud800"):
        with pytest.raises(BadMessage, match="without control characters"):
            parse_client_message(start_text(**{field: value}))


def test_last_seq_is_a_number_that_the_store_can_hold() -> None:
    assert started(last_seq=2**53).last_seq == 2**53
    for value in (-1, 2**53 + 1, HUGE):
        with pytest.raises(BadMessage, match="last_seq"):
            parse_client_message(start_text(last_seq=value))


@pytest.mark.parametrize("session_id", ["a", "A-1_b", "0" * 64])
def test_session_ids_are_taken(session_id: str) -> None:
    assert check_session_id(session_id) == session_id
    assert started(session_id=session_id).session_id == session_id


@pytest.mark.parametrize(
    "session_id", ["../etc", "a/b", "a\\b", "a:b", "a b", "-a", "_a", "a\n", "a" * 65, "ä", "%2e", "*", "\ud800"]
)
def test_session_id_with_path_or_key_characters_is_refused(session_id: str) -> None:
    with pytest.raises(BadMessage) as caught:
        parse_client_message(start_text(session_id=session_id))
    assert caught.value.expected == "1-64 letters, digits, '-' or '_', beginning with a letter or digit"
    assert caught.value.received == json.dumps(session_id)


def test_display_name_is_stripped_text() -> None:
    assert check_display_name("  Zoë 🎤 ") == "Zoë 🎤"
    for value in (None, 1, b"Ann", "tab\there"):
        with pytest.raises(BadMessage, match="not a name"):
            check_display_name(value)


# --- arbitrary input -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "null", "[]", '"start"', "3", "{", "[" * 60_000, "1" * 5_000, "\x00", "NaN"])
def test_text_that_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(BadMessage, match="expected a JSON object"):
        parse_client_message(text)


@pytest.mark.parametrize("kind", ["stop", "", "START", "started"])
def test_unknown_type_is_refused(kind: str) -> None:
    with pytest.raises(BadMessage, match="expected 'start' or 'end'"):
        parse_client_message(json.dumps({"type": kind}))


def test_text_over_the_limit_is_refused_by_its_bytes() -> None:
    for text in ("x" * (MAX_TEXT_BYTES + 1), "ä" * (MAX_TEXT_BYTES // 2 + 1)):
        with pytest.raises(MessageTooLarge, match=r"expected at most 65536 bytes; received 6553[78] bytes"):
            parse_client_message(text)


@given(st.text())
def test_arbitrary_text_is_a_message_or_a_protocol_error(text: str) -> None:
    try:
        parse_client_message(text)
    except ProtocolError as error:
        assert error.expected is not None
        assert error.received is not None


START_FIELDS = [f.name for f in fields(Start)] + ["type", "protocol"]
AUDIO_FIELDS = [f.name for f in fields(AudioFormat)]


@given(st.dictionaries(st.sampled_from(START_FIELDS), JSON, max_size=3), st.none() | JSON)
def test_start_with_arbitrary_values_is_a_message_or_a_protocol_error(changes: dict[str, Any], other: Any) -> None:
    source = json.loads(start_text()) | changes
    if other is not None:
        source[str(other)[:20]] = other
    try:
        parse_client_message(json.dumps(source))
    except ProtocolError as error:
        assert error.expected is not None
        assert error.received is not None


@given(st.dictionaries(st.sampled_from(AUDIO_FIELDS), JSON, max_size=3))
def test_audio_with_arbitrary_values_is_a_format_or_a_protocol_error(changes: dict[str, Any]) -> None:
    try:
        parse_client_message(start_text(changes))
    except ProtocolError as error:
        assert error.expected is not None
        assert error.received is not None


@given(st.text() | JSON.map(json.dumps))
def test_arbitrary_text_is_never_a_server_message(text: str) -> None:
    with pytest.raises(BadMessage, match="not a server message"):
        decode(text)


@given(
    st.sampled_from(["final", "partial", "session", "ack"]),
    st.dictionaries(st.sampled_from(["session_id", "words", "seq", "turn"]), JSON),
)
def test_malformed_server_message_is_read_or_refused(kind: str, values: dict[str, Any]) -> None:
    try:
        decode(json.dumps({"type": kind, **values}))
    except BadMessage as error:
        assert error.received is not None


# --- frames --------------------------------------------------------------------------------------------------------


@given(
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**64 - 1),
    st.integers(1, 16),
    st.sampled_from(["s16le", "f32le"]),
    st.integers(1, 50),
)
def test_frame_survives_the_round_trip(seq: int, first: int, channels: int, encoding: Any, samples: int) -> None:
    audio = AudioFormat(channels=channels, encoding=encoding)
    frame = AudioFrame(seq, first, bytes(range(256)) * 13)
    frame = AudioFrame(seq, first, frame.payload[: samples * audio.frame_bytes])
    assert unpack_frame(pack_frame(frame), audio) == frame


def test_frame_seq_wraps_at_two_to_the_thirty_second() -> None:
    assert unpack_frame(pack_frame(AudioFrame(2**32 + 5, 0, b"\0\0")), AudioFormat()).frame_seq == 5


@given(st.binary(max_size=200), st.integers(1, 16), st.sampled_from(["s16le", "f32le"]))
def test_arbitrary_bytes_are_a_frame_or_a_protocol_error(data: bytes, channels: int, encoding: Any) -> None:
    audio = AudioFormat(channels=channels, encoding=encoding)
    body = len(data) - FRAME_HEADER.size
    if body > 0 and body % audio.frame_bytes == 0:
        assert unpack_frame(data, audio).payload == data[FRAME_HEADER.size :]
    else:
        with pytest.raises(UnsupportedAudio) as caught:
            unpack_frame(data, audio)
        assert f"multiple of {audio.frame_bytes} bytes" in str(caught.value.expected)
        assert caught.value.received == f"{len(data)} bytes"


def test_frame_over_the_limit_is_refused() -> None:
    largest = FRAME_HEADER.pack(0, 0) + bytes(MAX_FRAME_BYTES - FRAME_HEADER.size)
    assert len(unpack_frame(largest, AudioFormat()).payload) == MAX_FRAME_BYTES - FRAME_HEADER.size
    with pytest.raises(MessageTooLarge, match="expected at most 1048576 bytes; received 1048578 bytes"):
        unpack_frame(largest + b"\0\0", AudioFormat())


# --- server messages -----------------------------------------------------------------------------------------------

WORD = WordMessage("héllo", 1, 250, 0.5, -1, "S1", 7)
MESSAGES: list[AnyServerMessage] = [
    Started(session_id="a", system="moonshine", resume_token="t", received_samples=5),
    Session(session_id="a", title="Ünï", state="live", names={"S1": "Ann"}),
    Ack(session_id="a", seq=3, audio_ms=20, frame_seq=2**32 - 1, received_samples=2**63),
    Partial(session_id="a", turn=2, decided_ms=640, words=[WORD]),
    Final(session_id="a", seq=4, turn=2, decided_ms=640, words=[WORD, WORD], turn_ended=True, direction_deg=-90.5),
    Final(session_id="a", seq=5, turn=3, words=[], turn_ended=True),
    Revision(session_id="a", seq=6, turn=2, words=[WORD]),
    Speaker(session_id="a", first_word_id=3, last_word_id=5, speaker="S2", state="provisional"),
    SpeakerName(session_id="a", speaker="S2", name="Bo"),
    Gap(session_id="a", start_ms=100, end_ms=200),
    WarningMessage(session_id="a", code="clipped", message="too loud", channel=3),
    Levels(session_id="a", levels_db=[-20.5, -120.0], dead_channels=[1], layout="close_talk"),
    Error(session_id="a", code="bad_message", message="no", expected="x", received="y", retry_after_s=1.5),
    Error(session_id="a", code="bad_message", message="no"),
    Ended(session_id="a", reason="vanished"),
]


def test_the_list_above_holds_every_server_message() -> None:
    assert {type(m) for m in MESSAGES} == set(get_args(AnyServerMessage))


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: m.type)
def test_server_message_survives_the_round_trip(message: AnyServerMessage) -> None:
    text = encode(message)
    assert decode(text) == message
    source = json.loads(text)
    assert {"type", "session_id", "seq", "audio_ms"} <= set(source)
    assert None not in source.values()


def test_durable_types_are_known_types() -> None:
    assert set(DURABLE) < {m.type for m in MESSAGES}
    assert {"partial", "levels", "ack", "started", "session", "error"}.isdisjoint(DURABLE)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: m.type)
def test_revision_is_known_by_its_text(message: AnyServerMessage) -> None:
    assert is_revision(encode(message)) == isinstance(message, Revision)


def test_words_cannot_pass_for_a_revision() -> None:
    evil = WordMessage('"type":"revision"', 0, 1, 0.5, -1, "S1", 0)
    assert not is_revision(encode(Final(session_id="a", turn=1, words=[evil])))
    assert not is_revision(encode(SpeakerName(session_id="a", speaker="S1", name='","type":"revision","')))


def test_revisions_are_for_those_who_ask() -> None:
    assert not started().revisions
    assert started(revisions=True).revisions
    with pytest.raises(BadMessage, match="revisions has the wrong type"):
        started(revisions=1)


def test_newer_server_may_send_further_fields() -> None:
    source = json.loads(encode(MESSAGES[4]))
    source["mood"] = "happy"
    source["words"][0]["loudness"] = 3
    assert decode(json.dumps(source)) == MESSAGES[4]


@pytest.mark.parametrize("text", ['{"type":"final"}', '{"type":"final","session_id":"a","words":[{}]}', '{"type":[]}'])
def test_server_message_without_what_it_needs_is_refused(text: str) -> None:
    with pytest.raises(BadMessage, match="not a server message"):
        decode(text)
