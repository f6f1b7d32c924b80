"""Settings: read once, frozen, and nothing unknown accepted.

Order, later wins: the defaults below, a TOML file (`--config` or CROSSTALK_CONFIG), environment variables
`CROSSTALK_<FIELD>` (and plain REDIS_URL), command-line flags.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

PREFIX = "CROSSTALK_"


class SettingsError(ValueError):
    """A setting that is unknown or has a value that makes no sense; names the setting and what was expected."""


SECOND_READINGS = ("base", "tiny", "off")


@dataclass(frozen=True)
class Settings:
    """Everything that can be set, with its unit in its name. README holds the same table; a test keeps it so."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = 8700
    """TCP port; 0 takes a free one."""
    redis_url: str = ""
    """An existing Redis or Valkey; empty: an embedded Valkey server is started."""
    data_dir: str = ""
    """Folder in which the embedded Valkey keeps transcripts across restarts; empty: memory only."""
    system: str = "moonshine"
    """Recogniser for sessions that name none."""
    second_reading: str = "base"
    """Model that reads what has been said once more: base, tiny, or off. Without base, and with `sot`, tiny reads."""
    worker_threads: int = 0
    """Inference threads; 0: one per CPU core."""
    max_sessions: int = 32
    """Live sessions; further ones are refused with a retry hint."""
    max_viewers: int = 1000
    """Viewers of this process; further ones are refused with a retry hint."""
    max_backlog_s: float = 8.0
    """Audio of one session that may wait for inference; then its socket is read no further."""
    resume_grace_s: float = 30.0
    """How long a session waits for a client that vanished."""
    idle_timeout_s: float = 60.0
    """Without any audio for this long the session is ended."""
    session_ttl_s: int = 604_800
    """How long transcripts are kept after a session's last word (a week)."""
    caption_limit: int = 100_000
    """Durable messages kept per session, about; the oldest go first."""
    log_level: str = "info"
    """debug, info, warning or error."""

    def __post_init__(self) -> None:
        """Refuse values that make no sense.

        Raises:
            SettingsError: names the field, what was expected and what came.
        """
        bounds: dict[str, tuple[float, float]] = {
            "port": (0, 65_535),
            "worker_threads": (0, 256),
            "max_sessions": (1, 10_000),
            "max_viewers": (1, 1_000_000),
            "max_backlog_s": (0.5, 600),
            "resume_grace_s": (0, 3_600),
            "idle_timeout_s": (1, 86_400),
            "session_ttl_s": (60, 10 * 365 * 86_400),
            "caption_limit": (100, 10_000_000),
        }
        for name, (low, high) in bounds.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise SettingsError(f"{name}: expected {low:g} to {high:g}, got {value}")
        if self.log_level not in ("debug", "info", "warning", "error"):
            raise SettingsError(f"log_level: expected debug, info, warning or error, got {self.log_level!r}")
        if self.second_reading not in SECOND_READINGS:
            raise SettingsError(f"second_reading: expected base, tiny or off, got {self.second_reading!r}")
        if self.redis_url and not self.redis_url.startswith(("redis://", "rediss://", "unix://")):
            raise SettingsError(f"redis_url: expected redis://, rediss:// or unix://, got {self.redis_url!r}")


def _convert(name: str, kind: object, value: object, source: str) -> object:
    wanted = {"int": int, "float": float, "str": str}[str(kind)]
    fraction = wanted is int and isinstance(value, float)
    if isinstance(value, bool) or fraction or (wanted is str and not isinstance(value, str)):
        raise SettingsError(f"{source}: {name} is to be {wanted.__name__}, got {value!r}")
    try:
        return wanted(value)
    except (TypeError, ValueError):
        raise SettingsError(f"{source}: {name} is to be {wanted.__name__}, got {value!r}") from None


def load_settings(
    environment: Mapping[str, str] | None = None,
    flags: Mapping[str, object] | None = None,
    config_path: Path | None = None,
) -> Settings:
    """Settings from file, environment and flags.

    Args:
        environment: defaults to `os.environ`; variables without the prefix are not ours.
        flags: values of the command line; None means not given.
        config_path: TOML file; defaults to CROSSTALK_CONFIG.

    Raises:
        SettingsError: an unknown name, a wrong type or a value out of range; says where it came from.
    """
    environment = os.environ if environment is None else environment
    kinds = {f.name: f.type for f in fields(Settings)}
    values: dict[str, object] = {}
    path = config_path or (Path(environment[PREFIX + "CONFIG"]) if PREFIX + "CONFIG" in environment else None)
    if path is not None:
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise SettingsError(f"{path}: expected a readable TOML file: {error}") from error
        for name, value in table.items():
            if name not in kinds:
                raise SettingsError(f"{path}: unknown setting {name!r}; known: {', '.join(sorted(kinds))}")
            values[name] = _convert(name, kinds[name], value, str(path))
    if environment.get("REDIS_URL"):
        values["redis_url"] = environment["REDIS_URL"]
    for variable, value in environment.items():
        if not variable.startswith(PREFIX) or variable == PREFIX + "CONFIG":
            continue
        name = variable.removeprefix(PREFIX).lower()
        if name not in kinds:
            raise SettingsError(f"unknown environment variable {variable}; known settings: {', '.join(sorted(kinds))}")
        values[name] = _convert(name, kinds[name], value, variable)
    for name, value in (flags or {}).items():
        if value is not None:
            values[name] = _convert(name, kinds[name], value, f"--{name.replace('_', '-')}")
    return Settings(**values)  # type: ignore[arg-type]
