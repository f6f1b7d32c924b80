"""Settings: who wins, what is refused, and that the message says where a bad value came from."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from server.config import PREFIX, Settings, SettingsError, load_settings


def test_without_anything_the_defaults_hold() -> None:
    assert load_settings({}) == Settings()


def test_file_then_environment_then_flags(tmp_path: Path) -> None:
    path = tmp_path / "crosstalk.toml"
    path.write_text('port = 1000\nmax_sessions = 10\nhost = "file"\n')
    environment = {"CROSSTALK_PORT": "2000", "CROSSTALK_HOST": "environment"}
    settings = load_settings(environment, {"host": "flag", "port": None}, path)
    assert (settings.max_sessions, settings.port, settings.host) == (10, 2000, "flag")


def test_file_may_be_named_by_the_environment_and_a_given_path_wins(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("port = 1\n")
    (tmp_path / "b.toml").write_text("port = 2\n")
    environment = {"CROSSTALK_CONFIG": str(tmp_path / "a.toml")}
    assert load_settings(environment).port == 1
    assert load_settings(environment, config_path=tmp_path / "b.toml").port == 2


def test_plain_redis_url_counts_and_the_prefixed_one_wins() -> None:
    assert load_settings({"REDIS_URL": "redis://a"}).redis_url == "redis://a"
    assert load_settings({"REDIS_URL": ""}).redis_url == ""
    both = {"REDIS_URL": "redis://a", "CROSSTALK_REDIS_URL": "rediss://b"}
    assert load_settings(both).redis_url == "rediss://b"


def test_every_setting_can_come_from_each_source(tmp_path: Path) -> None:
    wanted: dict[str, Any] = {
        field.name: value + 1 if isinstance(value := field.default, int | float) else value
        for field in fields(Settings)
    } | {"host": "::1", "redis_url": "unix:///x", "data_dir": "d", "system": "s", "log_level": "debug"}
    path = tmp_path / "all.toml"
    path.write_text("".join(f"{k} = {v!r}\n" for k, v in wanted.items()))
    expected = Settings(**wanted)
    assert load_settings({}, config_path=path) == expected
    assert load_settings({PREFIX + k.upper(): str(v) for k, v in wanted.items()}) == expected
    assert load_settings({}, {k: str(v) for k, v in wanted.items()}) == expected


def test_unknown_names_are_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="unknown environment variable CROSSTALK_PROT; known settings: caption_"):
        load_settings({"CROSSTALK_PROT": "1"})
    path = tmp_path / "c.toml"
    path.write_text("prot = 1\n")
    with pytest.raises(SettingsError, match=r"c\.toml: unknown setting 'prot'; known: caption_"):
        load_settings({}, config_path=path)


def test_variables_of_other_programs_are_no_concern() -> None:
    assert load_settings({"PORT": "1", "HOME": "/", "XCROSSTALK_PORT": "3"}) == Settings()


@pytest.mark.parametrize("value", ["", "eighty", "1.5", "0x10"])
def test_what_is_no_number_is_refused_with_its_source(value: str) -> None:
    with pytest.raises(SettingsError, match="CROSSTALK_PORT: port is to be int, got"):
        load_settings({"CROSSTALK_PORT": value})
    with pytest.raises(SettingsError, match="--max-sessions: max_sessions is to be int, got"):
        load_settings({}, {"max_sessions": value})


@pytest.mark.parametrize("line", ["port = true", "host = 1", "port = 1.5", "system = ['a']", "port = 1979-05-27"])
def test_wrong_type_in_the_file_is_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "c.toml"
    path.write_text(line + "\n")
    with pytest.raises(SettingsError, match=r"c\.toml: .* is to be"):
        load_settings({}, config_path=path)


def test_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none\.toml: expected a readable TOML file"):
        load_settings({}, config_path=tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("port = \n")
    with pytest.raises(SettingsError, match=r"bad\.toml: expected a readable TOML file"):
        load_settings({"CROSSTALK_CONFIG": str(tmp_path / "bad.toml")})
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match=r"binary\.toml: expected a readable TOML file"):
        load_settings({}, config_path=tmp_path / "binary.toml")


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("port", 0, 65_535),
        ("worker_threads", 0, 256),
        ("max_sessions", 1, 10_000),
        ("max_viewers", 1, 1_000_000),
        ("max_backlog_s", 0.5, 600.0),
        ("resume_grace_s", 0.0, 3_600.0),
        ("idle_timeout_s", 1.0, 86_400.0),
        ("session_ttl_s", 60, 315_360_000),
        ("caption_limit", 100, 10_000_000),
    ],
)
def test_numbers_are_bounded(name: str, low: float, high: float) -> None:
    for value in (low, high):
        assert getattr(load_settings({}, {name: value}), name) == value
    for value in (low - 1, high + 1):
        with pytest.raises(SettingsError, match=f"{name}: expected .* to .*, got {value}"):
            load_settings({}, {name: value})


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_number_that_is_none_is_refused(value: str) -> None:
    with pytest.raises(SettingsError, match="resume_grace_s: expected 0 to 3600, got"):
        load_settings({"CROSSTALK_RESUME_GRACE_S": value})


def test_choices_are_refused_with_what_was_expected() -> None:
    with pytest.raises(SettingsError, match="log_level: expected debug, info, warning or error, got 'loud'"):
        Settings(log_level="loud")
    with pytest.raises(SettingsError, match="redis_url: expected redis://, rediss:// or unix://, got 'localhost'"):
        Settings(redis_url="localhost")
