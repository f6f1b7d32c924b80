"""The files that put workers behind a proxy agree with each other and with the server."""

from __future__ import annotations

import re
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from server.config import PREFIX, Settings, load_settings

ROOT = Path(__file__).resolve().parent.parent
WORKERS = ("worker1", "worker2")


@cache
def compose() -> dict[str, Any]:
    """docker-compose.yml with its anchors resolved."""
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return loaded


def service(name: str) -> dict[str, Any]:
    """One service of the file."""
    found: dict[str, Any] = compose()["services"][name]
    return found


@cache
def proxy_rules() -> str:
    """The proxy's rules without comments."""
    return re.sub(r"(?m)^\s*#.*$", "", (ROOT / "deploy" / "Caddyfile").read_text())


@cache
def dockerfile() -> str:
    """The image's recipe without comments, continued lines joined."""
    text = re.sub(r"(?m)^#.*\n", "", (ROOT / "Dockerfile").read_text())
    return text.replace("\\\n", " ")


def test_there_are_a_store_two_workers_and_a_proxy() -> None:
    assert set(compose()["services"]) == {"valkey", *WORKERS, "proxy"}


def test_workers_are_alike_and_built_from_this_repository() -> None:
    assert service("worker1") == service("worker2")
    assert service("worker1")["build"] == "."
    assert (ROOT / "Dockerfile").is_file()


def test_workers_share_the_store_of_the_file() -> None:
    settings = load_settings(environment=service("worker1")["environment"])
    assert settings.redis_url == "redis://valkey:6379/0"


@pytest.mark.parametrize("name", ["valkey", "proxy"])
def test_images_that_are_not_ours_have_their_health_check_here(name: str) -> None:
    assert service(name)["healthcheck"]["test"]
    assert re.fullmatch(r"[a-z/]+:[\w.-]+", service(name)["image"]), "an image is named with its version"


def test_worker_image_brings_its_own_health_check() -> None:
    assert re.search(r"^HEALTHCHECK .*/readyz", dockerfile(), re.MULTILINE)


def test_everything_starts_after_what_it_needs_is_healthy() -> None:
    assert service("worker1")["depends_on"] == {"valkey": {"condition": "service_healthy"}}
    assert service("proxy")["depends_on"] == {name: {"condition": "service_healthy"} for name in WORKERS}


def test_what_must_survive_lies_in_a_volume() -> None:
    assert "valkey-data:/data" in service("valkey")["volumes"]
    assert "--appendonly yes" in service("valkey")["command"]
    assert "valkey-data" in compose()["volumes"]


def test_proxy_reads_the_rules_of_this_repository_and_is_reached_from_this_machine_only() -> None:
    mounted = [volume.split(":")[0] for volume in service("proxy")["volumes"] if volume.startswith("./")]
    assert mounted == ["./deploy/Caddyfile"]
    assert (ROOT / mounted[0]).is_file()
    (port,) = service("proxy")["ports"]
    assert port.startswith("${BIND:-127.0.0.1}:")
    assert re.search(rf"(?m)^:{port.rsplit(':', 1)[1]} \{{", proxy_rules())
    assert all("ports" not in service(name) for name in (*WORKERS, "valkey"))


def test_every_rule_of_the_proxy_knows_every_worker_and_its_health() -> None:
    upstreams = re.findall(r"reverse_proxy ([^{]*) \{([^}]*)\}", proxy_rules())
    assert len(upstreams) == 2
    for names, rules in upstreams:
        assert names.split() == [f"{name}:{Settings().port}" for name in WORKERS]
        assert "import health" in rules
    assert "health_uri /readyz" in proxy_rules()


def test_proxy_sends_what_needs_the_owner_of_a_session_by_client_address() -> None:
    pinned = re.search(r"@pinned expression `(.*)`", proxy_rules())
    assert pinned
    assert "path('/v1/stream')" in pinned[1]
    assert "method('POST', 'PATCH', 'DELETE') && path('/v1/sessions/*')" in pinned[1]
    assert re.search(r"handle @pinned \{\s*reverse_proxy [^{]*\{\s*lb_policy ip_hash\b", proxy_rules())


def test_image_carries_all_four_packages_and_runs_without_root() -> None:
    for package in ("client", "onnx_export", "server", "streaming_models"):
        assert f"COPY {package} {package}\n" in dockerfile()
    last_stage = dockerfile().rsplit("\nFROM ", 1)[1]
    users = re.findall(r"(?m)^USER (\w+)$", last_stage)
    assert users == ["crosstalk"]
    assert "torch" not in dockerfile()
    assert "[train]" not in dockerfile()


def test_settings_that_the_image_makes_are_settings_of_the_server() -> None:
    made = {name.removeprefix(PREFIX).lower() for name in re.findall(rf"\b({PREFIX}[A-Z_]+)=", dockerfile())}
    assert made == {"host"}
    assert made <= {field.name for field in fields(Settings)}
    assert f"EXPOSE {Settings().port}\n" in dockerfile()
