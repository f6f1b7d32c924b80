"""A server of one's own for the length of a command: `crosstalk serve` as a child on a free loopback port.

Commands without `--server`, the benchmark and the tests all take the real path through real sockets this way.
"""

from __future__ import annotations

import os
import subprocess
import sys
from types import TracebackType

READY_PREFIX = "crosstalk listening on "
"""First line that `crosstalk serve` prints once it accepts connections, followed by its base URL."""


class LocalServer:
    """Context manager around a child server; `url` is its base, such as `http://127.0.0.1:43211`.

    Args:
        environment: settings for the child as `CROSSTALK_*` variables, on top of this process's own.

    Raises:
        RuntimeError: the child ended before it was ready; the message holds the end of what it printed.
    """

    def __init__(self, environment: dict[str, str] | None = None) -> None:
        self._environment = environment or {}
        self._process: subprocess.Popen[str] | None = None
        self.url = ""

    @property
    def pid(self) -> int:
        """Process id of the running child."""
        assert self._process is not None, "not started"
        return self._process.pid

    def __enter__(self) -> LocalServer:
        command = [sys.executable, "-m", "server", "serve", "--host", "127.0.0.1", "--port", "0"]
        self._process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=None,
            text=True,
            start_new_session=True,  # Ctrl-C is the command's: it flushes first, then ends its server
            env={**os.environ, "CROSSTALK_LOG_LEVEL": "warning", **self._environment},
        )
        assert self._process.stdout is not None
        printed = []
        for line in self._process.stdout:
            printed.append(line)
            if line.startswith(READY_PREFIX):
                self.url = line.removeprefix(READY_PREFIX).strip()
                return self
        code = self._process.wait()
        self._process.stdout.close()
        raise RuntimeError(f"the server ended with code {code} before it was ready: {''.join(printed[-20:])}")

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
