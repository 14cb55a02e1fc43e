"""The house rules that a machine can check: imports go down, files stay small, doors open fast.

The imports are read from the source (also those inside functions), so nothing has to load.
"""

from __future__ import annotations

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("launcher", "kernels", "threed_gen")
LONGEST_FILE = 500

# From the top floor down. A room may import rooms of lower floors, never of its own.
FLOORS = [
    {"cli"},
    {"training"},
    {"generation", "evaluation", "report"},
    {"data", "models", "flow"},
    {"geometry", "sparse"},
    {"kernels"},
    {"base"},
]
# Single files of threed_gen and the floor they stand on; everything else is a room of its own name.
FILES = {
    "__init__": "base",
    "config": "base",
    "console": "base",
    "errors": "base",
    "machine": "base",
    "files": "base",
    "randomness": "base",
    "cli": "cli",
    "commands": "cli",
    "doctor": "cli",
    "quickstart": "cli",
    "train": "cli",
}
# Neighbours on one floor that are allowed, one way only: evaluation measures what generation
# rebuilds, and the page shows what evaluation measured.
NEIGHBOURS = {("evaluation", "generation"), ("report", "evaluation"), ("report", "generation")}
MAY_CALL_LAUNCHER = {"cli", "training", "data"}
LAUNCHER_MAY_IMPORT = {"yaml", "pydantic", "numpy", "mpi4py", "launcher", *sys.stdlib_module_names}

Edge = tuple[str, str, str]  # importing room, imported room, where


def sources() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    package, *rest = module.split(".")
    if package != "threed_gen":
        return package
    name = rest[0] if rest else "__init__"
    return FILES.get(name, name)


def imports_of(path: Path, source: str | None = None) -> list[tuple[str, int]]:
    """Every absolute module name that a file imports, with its line."""
    tree = ast.parse(path.read_text(encoding="utf-8") if source is None else source)
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            assert node.module is not None
            assert all(alias.name != "*" for alias in node.names), f"{path}:{node.lineno}: import *"
            for alias in node.names:
                # `from threed_gen import geometry` imports a room, `from x.y import name` does not.
                deep = f"{node.module}.{alias.name}" if node.module in PACKAGES else node.module
                found.append((deep, node.lineno))
    return found


def edges() -> list[Edge]:
    result = []
    for path in sources():
        room = room_of(module_of(path))
        for module, line in imports_of(path):
            if module.split(".")[0] in PACKAGES:
                where = f"{path.relative_to(ROOT)}:{line} imports {module}"
                if module == "threed_gen" or module.startswith("threed_gen.__"):
                    continue
                result.append((room, room_of(module), where))
    return result


def floor(room: str) -> int:
    for height, rooms in enumerate(FLOORS):
        if room in rooms:
            return height
    raise AssertionError(f"'{room}' stands on no floor: add it to FLOORS here")


def upward(found: list[Edge]) -> list[str]:
    wrong = []
    for importer, imported, where in found:
        if importer == imported or (importer, imported) in NEIGHBOURS:
            continue
        if imported == "launcher":
            if importer not in MAY_CALL_LAUNCHER:
                wrong.append(where)
        elif importer != "launcher" and floor(importer) >= floor(imported):
            wrong.append(where)
    return wrong


def test_imports_only_go_down() -> None:
    assert upward(edges()) == []


@pytest.mark.parametrize(
    ("importer", "imported"),
    [("geometry", "data"), ("models", "training"), ("data", "models"), ("models", "launcher")],
)
def test_an_upward_import_would_be_seen(importer: str, imported: str) -> None:
    assert upward([(importer, imported, "here")]) == ["here"]


def test_rooms_form_no_circle() -> None:
    below: dict[str, set[str]] = {}
    for importer, imported, _ in edges():
        if importer != imported:
            below.setdefault(importer, set()).add(imported)

    def reach(room: str, seen: tuple[str, ...]) -> None:
        assert room not in seen, f"rooms form a circle: {' > '.join((*seen, room))}"
        for lower in sorted(below.get(room, ())):
            reach(lower, (*seen, room))

    for room in sorted(below):
        reach(room, ())


def test_launcher_knows_neither_torch_nor_threed_gen() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in (ROOT / "launcher").rglob("*.py")
        for module, line in imports_of(path)
        if module.split(".")[0] not in LAUNCHER_MAY_IMPORT
    ]
    assert wrong == []


def test_launcher_loads_where_torch_is_not_installed() -> None:
    modules = [module_of(path) for path in (ROOT / "launcher").rglob("*.py")]
    code = (
        "import importlib, sys\n"
        "for name in ('torch', 'threed_gen', 'deepspeed', 'mpi4py'): sys.modules[name] = None\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_file_is_small_and_says_what_it_does(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LONGEST_FILE
    assert ast.get_docstring(ast.parse(text)), "open the file with a few plain words"


FRONTS = {"kernels/ssa/__init__.py"}  # operations that others import by one name


def test_package_files_only_describe() -> None:
    for path in sources():
        if path.name == "__init__.py" and str(path.relative_to(ROOT)) not in FRONTS:
            assert imports_of(path) == [], f"{path}: no re-exports"


def test_help_answers_at_once() -> None:
    def seconds() -> float:
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "threed_gen.cli", "--help"],
            cwd=ROOT,
            capture_output=True,
            check=True,
        )
        return time.perf_counter() - start

    assert min(seconds() for _ in range(3)) < 0.5


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys, threed_gen.cli as cli\n"
        "cli.build_parser()\n"
        "heavy = {'torch', 'numpy', 'pydantic', 'yaml', 'trimesh', 'warp', 'deepspeed', 'tqdm'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
