"""What is installed is what lies in the repository: the wheel is built, opened and run apart from the source."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
import sys
import zipfile
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("client", "onnx_export", "server", "streaming_models")
DISTRIBUTION = "crosstalk-captions"
LARGEST_WHEEL_BYTES = 40 << 20
"""The repository's own limit (design.md)."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built from a copy so that nothing stale of `build/` gets in and nothing is left behind."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "THIRD_PARTY.md"):
        shutil.copy(ROOT / name, source)
    build = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(out), str(source)]
    run = subprocess.run([sys.executable, "-m", "pip", *build], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    (path,) = out.glob("*.whl")
    return zipfile.ZipFile(path)


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    """METADATA of the wheel."""
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return HeaderParser().parsestr(wheel.read(name).decode())


def requirements(metadata: Message) -> dict[str, str]:
    """Distribution -> whole requirement, of those that a plain installation brings."""
    listed = metadata.get_all("Requires-Dist", [])
    plain = [requirement for requirement in listed if "extra ==" not in requirement]
    return {re.split(r"[^\w.-]", requirement, maxsplit=1)[0].lower(): requirement for requirement in plain}


def test_wheel_holds_every_file_of_the_four_packages_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    source = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert held == source


def test_wheel_holds_page_weights_sample_and_type_markers(wheel: zipfile.ZipFile) -> None:
    for name in (
        "server/ingest/align.py",
        "server/commands/serve.py",
        "server/web/index.html",
        "server/web/app.js",
        "streaming_models/weights/voice/embedding.onnx",
        "streaming_models/weights/voice/segmentation.onnx",
        "streaming_models/weights/voice/CARD.md",
        "streaming_models/data/sample/sample-meeting.opus",
        "streaming_models/data/sample/sample-meeting.seglst.json",
        *(f"{package}/py.typed" for package in PACKAGES),
    ):
        assert name in wheel.namelist()


def test_wheel_stays_small(wheel: zipfile.ZipFile) -> None:
    assert sum(entry.compress_size for entry in wheel.infolist()) < LARGEST_WHEEL_BYTES


def test_wheel_carries_its_licence_and_those_of_what_it_ships(wheel: zipfile.ZipFile, metadata: Message) -> None:
    assert metadata["License-Expression"] == "Apache-2.0"
    held = {name.rsplit("/", 1)[-1] for name in wheel.namelist() if ".dist-info/licenses/" in name}
    assert held == {"LICENSE", "THIRD_PARTY.md"}


def test_wheel_runs_without_the_repository(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    site = tmp_path / "site"
    wheel.extractall(site)
    program = (
        f"import sys; sys.path.insert(0, {str(site)!r})\n"
        "import server.app, server.cli, client, onnx_export, streaming_models\n"
        "print(*(module.__file__ for module in (server, client, onnx_export, streaming_models)), sep='\\n')\n"
        "server.cli.main(['--version'])\n"
    )
    run = subprocess.run([sys.executable, "-I", "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    *files, version = run.stdout.splitlines()
    assert [Path(file).parent.parent for file in files] == [site] * 4
    assert version == f"crosstalk {importlib.metadata.version(DISTRIBUTION)}"


@pytest.mark.parametrize("package", PACKAGES)
def test_import_name_belongs_to_this_distribution_alone(package: str) -> None:
    # A checkout may name it twice: installed, and by the egg-info of an editable installation.
    assert set(importlib.metadata.packages_distributions()[package]) == {DISTRIBUTION}


def test_command_is_the_one_entry_point(wheel: zipfile.ZipFile) -> None:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/entry_points.txt"))
    assert wheel.read(name).decode().split() == ["[console_scripts]", "crosstalk", "=", "server.cli:main"]
    (entry,) = importlib.metadata.entry_points(group="console_scripts", name="crosstalk")
    assert callable(entry.load())


def test_plain_installation_brings_no_torch(metadata: Message) -> None:
    names = requirements(metadata)
    assert "onnxruntime" in names
    assert [name for name in names if name.startswith(("torch", "nvidia", "onnxruntime-gpu", "meeteval"))] == []
    assert "pytest" not in names


def test_the_wheel_with_moonshines_weights_is_pinned(metadata: Message) -> None:
    # Later ones carry no weights.
    assert requirements(metadata)["moonshine-voice"] == "moonshine-voice==0.0.73"


def test_no_second_onnx_runtime_hides_the_first() -> None:
    # onnxruntime and onnxruntime-gpu own the same files: installed together, CUDA disappears.
    owners = set(importlib.metadata.packages_distributions()["onnxruntime"])
    assert len(owners) == 1, f"expected one distribution behind `onnxruntime`, found {sorted(owners)}"


def test_every_requirement_stands_in_the_third_party_page(metadata: Message) -> None:
    page = (ROOT / "THIRD_PARTY.md").read_text()
    assert [name for name in requirements(metadata) if f"`{name}`" not in page] == []
