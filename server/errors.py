"""What can go wrong between a client and the server, one close code each.

    CrosstalkError
    ├── ProtocolError                 a message that breaks the protocol
    │   ├── BadMessage         4400   not JSON, a missing, unknown or absurd field, wrong order
    │   ├── UnsupportedAudio   4415   sample rate, channels, encoding, odd byte counts, NaN
    │   ├── MessageTooLarge    4413   a frame over the limit
    │   └── UnknownVersion     4426   a protocol version that this server does not speak
    ├── SessionError                  a session that can't be had
    │   ├── NoSuchSession      4404
    │   ├── SessionExists      4409   somebody else's, or already ended
    │   ├── AtCapacity         4429   refused before any audio was taken; carries a retry hint
    │   └── ClientTooSlow      4408   stopped reading or stopped sending
    └── StoreUnavailable       1013   Redis can't be reached

Codes from 4000 are the application's (RFC 6455, 7.4.2); the last two digits follow HTTP where it has a word for it.
"""

from __future__ import annotations

from typing import ClassVar


class CrosstalkError(Exception):
    """Base of everything that a client may be told.

    Args:
        message: one sentence.
        expected: what would have been right.
        received: what came, shortened.
        retry_after_s: when another try may succeed; None when it will not.
    """

    close_code: ClassVar[int] = 1011
    http_status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"

    def __init__(
        self,
        message: str,
        *,
        expected: str | None = None,
        received: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.expected = expected
        self.received = received if received is None else received[:200]
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        parts = [self.message]
        if self.expected is not None:
            parts.append(f"expected {self.expected}")
        if self.received is not None:
            parts.append(f"received {self.received}")
        return "; ".join(parts)


class ProtocolError(CrosstalkError):
    """A message that breaks the protocol."""

    close_code = 4400
    http_status = 400
    code = "bad_message"


class BadMessage(ProtocolError):
    """Not JSON, a missing, unknown or absurd field, or a message at the wrong time."""


class UnsupportedAudio(ProtocolError):
    """Audio in a form that the server does not take."""

    close_code = 4415
    http_status = 415
    code = "unsupported_audio"


class MessageTooLarge(ProtocolError):
    """A message over the size limit."""

    close_code = 4413
    http_status = 413
    code = "too_large"


class UnknownVersion(ProtocolError):
    """A protocol version that this server does not speak."""

    close_code = 4426
    http_status = 426
    code = "unknown_version"


class SessionError(CrosstalkError):
    """A session that can't be had."""

    close_code = 4409
    http_status = 409
    code = "session"


class NoSuchSession(SessionError):
    """No session of that name is known."""

    close_code = 4404
    http_status = 404
    code = "no_such_session"


class SessionExists(SessionError):
    """The session has a sender, or has ended."""

    code = "session_exists"


class AtCapacity(SessionError):
    """The server takes no further session now."""

    close_code = 4429
    http_status = 503
    code = "at_capacity"


class ClientTooSlow(SessionError):
    """The client stopped reading, or stopped sending without ending its session."""

    close_code = 4408
    http_status = 408
    code = "too_slow"


class StoreUnavailable(CrosstalkError):
    """Redis can't be reached."""

    close_code = 1013
    http_status = 503
    code = "store_unavailable"
