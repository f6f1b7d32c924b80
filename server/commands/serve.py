"""`crosstalk serve`: the server, on embedded defaults or on given settings."""

from __future__ import annotations

import argparse
import logging
import socket
import sys
from dataclasses import fields
from pathlib import Path

import uvicorn

from server.app import create_app
from server.config import Settings, SettingsError, load_settings
from server.local import READY_PREFIX


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command; every setting is a flag."""
    parser = subparsers.add_parser("serve", help="start the server", description=__doc__)
    parser.add_argument("--config", type=Path, help="TOML file with settings")
    for field in fields(Settings):
        parser.add_argument(f"--{field.name.replace('_', '-')}", dest=field.name, help=f"default {field.default!r}")
    parser.set_defaults(run=run)


class _Announcing(uvicorn.Server):
    """Says where it listens once it does, on a line that programs can read."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and sockets:
            host, port = sockets[0].getsockname()[:2]
            shown = f"[{host}]" if ":" in host else host
            print(f"{READY_PREFIX}http://{shown}:{port}", flush=True)
            print(
                f"Open http://{'localhost' if host in ('127.0.0.1', '::1') else shown}:{port}/ in a browser", flush=True
            )


def run(args: argparse.Namespace) -> int:
    """Serve until interrupted; 2 for settings that make no sense or an address that is taken."""
    flags = {field.name: getattr(args, field.name) for field in fields(Settings)}
    try:
        settings = load_settings(flags=flags, config_path=args.config)
    except SettingsError as error:
        print(f"crosstalk: {error}", file=sys.stderr)
        return 2
    logging.basicConfig(level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s")
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        print(f"crosstalk: cannot listen on {settings.host}:{settings.port}: {error.strerror}", file=sys.stderr)
        return 2
    config = uvicorn.Config(
        create_app(settings),
        log_level="warning" if settings.log_level == "info" else settings.log_level,
        log_config=None,
        ws="websockets-sansio",
        # Over our own limit, so that an oversized frame gets our error; beyond this the library closes with 1009.
        ws_max_size=16 << 20,
        ws_ping_interval=20.0,
        ws_ping_timeout=20.0,
        timeout_graceful_shutdown=20,
    )
    server = _Announcing(config)
    server.run(sockets=[listener])
    return 0 if server.started else 1
