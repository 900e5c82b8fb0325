"""Imports point one way: the rules of ARCHITECTURE.md, read from the source of every module."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("emu", "isa", "guests")

# Libraries and the only modules that may know them.
LIBRARIES = {
    "capstone": ("isa.x86.decode",),
    "keystone": ("isa.x86.emit", "guests", "guests.*"),
    "unicorn": ("emu.backends.*",),
    "rich": (
        "emu.report",
        "emu.console",
        "emu.cli_verify",
        "emu.cli_bench",
        "emu.trace.table",
        "emu.trace.live",
        "emu.top.live",
        "guests.debian",
    ),
    "matplotlib": ("emu.bench.plot",),
    "click": ("emu.cli", "emu.cli_*", "emu.__main__", "guests.linux"),
    "zstandard": ("emu.loader.payload", "emu.saved_code"),
    "lz4": ("emu.loader.payload",),
    "elftools": ("emu.loader.*", "emu.trace.symbols"),
    "perfetto": ("emu.trace.perfetto",),
    "PIL": ("emu.screen",),
}
# Modules that may import nothing of the project but what stands here (and their own package's parts).
ALLOWED = {
    "isa.*": ("isa", "isa.*"),
    "emu.devices.*": ("emu.bus", "emu.irq", "emu.clock", "emu.disk_image", "emu.devices.pci", "isa.x86.state"),
    "emu.loader.*": ("emu.memory", "emu.errors", "isa.x86.state", "emu.loader.*"),
    "emu.dbt.*": ("isa.*", "emu.mmu", "emu.memory", "emu.backends.base", "emu.dbt.*"),
    "emu.monitor": (
        "isa.*", "emu.engines.base", "emu.exits", "emu.mmu", "emu.bus", "emu.irq", "emu.clock", "emu.trace",
        "emu.preempt",
    ),
    "emu.engines.*": (
        "isa.*", "emu.engines.base", "emu.dbt.*", "emu.backends.base", "emu.exits", "emu.memory", "emu.mmu",
        "emu.errors",
    ),
    "emu.backends.*": ("isa.*", "emu.backends.base", "emu.errors", "emu.memory", "emu.pagetables"),
    "emu.mmu": (
        "isa.*", "emu.backends.base", "emu.entries", "emu.memory", "emu.pagetables", "emu.shadow", "emu.spaces",
        "emu.tabletrace", "emu.window",
    ),
    "emu.spaces": (
        "isa.*", "emu.backends.base", "emu.entries", "emu.memory", "emu.pagetables", "emu.shadow",
        "emu.tabletrace", "emu.window",
    ),
    "emu.entries": ("isa.*", "emu.memory", "emu.shadow"), "emu.window": ("isa.*", "emu.memory"),
    "emu.tabletrace": ("emu.entries", "emu.memory", "emu.shadow"),
    "emu.shadow": ("emu.pagetables",), "emu.pagetables": (),
    "emu.trace": (), "emu.trace.*": ("emu.trace.*", "emu.errors", "emu.outfile", "emu.loader.symbols"),
    "emu.stopwatch": ("isa.*", "emu.bus", "emu.trace.record"),
    "emu.saved_code": ("emu.dbt.store", "emu.errors", "emu.garbage", "emu.outfile"), "emu.garbage": (),
    "emu.exits": (), "emu.errors": (), "emu.irq": (), "emu.clock": (), "emu.bus": (), "emu.watch": (),
    "emu.boards": (), "emu.disk_image": ("emu.disk.*",), "emu.disk": (), "emu.disk.*": ("emu.disk.*", "emu.errors"),
}  # fmt: skip
# The helper modules of one backend are no siblings of it.
PARTS = {
    "emu.backends.unicorn": (
        "emu.backends.probe",
        "emu.backends.unit",
        "emu.backends.tuning",
    ),
    "emu.backends.tuning": ("emu.backends.unicorn",),  # for the type only
    "emu.backends.timed": ("emu.backends.unicorn",),
    "emu.loader.mptable": ("isa.x86.cpuid",),
    "emu.engines.light": ("emu.engines.border", "emu.engines.finder"),
    "emu.engines.translate": ("emu.engines.finder", "emu.engines.light"),
    "emu.engines.observed": ("emu.engines.translate", "emu.pagetables"),
    "emu.engines.traced": ("emu.engines.interpret", "emu.engines.translate", "emu.stopwatch"),
}
# Concrete classes and who may name them (their own package follows ALLOWED).
CONCRETE = (
    "emu.devices.*", "emu.engines.interpret", "emu.engines.translate", "emu.engines.traced", "emu.engines.observed",
    "emu.backends.*",
)  # fmt: skip
NOT_CONCRETE = ("emu.engines.base", "emu.backends.base", "emu.devices.pci")  # the last: PciFunction is a base
COMPOSERS = (
    "emu.machine",
    "emu.traced",
    "emu.observed",
    "emu.pc",
    "emu.cards",
    "emu.verify_unicorn",
    "emu.bench.rivals",
)
# Who may stand above the machine.
ABOVE = {
    "emu.pc": ("emu.machine",),
    "emu.machine": (
        "emu",
        "emu.cli_*",
        "emu.doctor",
        "emu.report",
        "emu.traced",
        "emu.observed",
        "emu.verify",
        "emu.verify_unicorn",
        "emu.bench.*",
    ),
    "emu.traced": ("emu.cli_*", "emu.bench.*"),
    "emu.observed": ("emu.cli_*",),
    "emu.cli": ("emu.__main__",),
    "emu.cli_*": ("emu.cli", "emu.cli_*", "emu.__main__"),
}


def modules() -> dict[str, Path]:
    """Every module of the project by dotted name."""
    found = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(source: str, known: set[str]) -> Iterator[str]:
    """Dotted names of the modules that `source` imports, wherever in it; `known` tells modules from their members."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module is not None
            for alias in node.names:
                member = f"{node.module}.{alias.name}"
                yield member if member in known else node.module


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def same_package(one: str, other: str) -> bool:
    """True for a device that is a package (`emu.devices.bios`) and its parts."""
    return one.split(".")[:3] == other.split(".")[:3] and len(one.split(".")) >= 3


def violations(name: str, imported: str) -> Iterator[str]:
    """The rules that module `name` breaks by importing `imported`."""
    top = imported.split(".")[0]
    if top in LIBRARIES and not matches(name, LIBRARIES[top]):
        yield f"{name} imports {imported}: only {', '.join(LIBRARIES[top])} may"
    if top in ("benchmarks", "tests"):
        yield f"{name} imports {imported}: nothing in the product may"
    if top not in PACKAGES or same_package(name, imported):
        return
    for pattern, allowed in ALLOWED.items():
        if fnmatch(name, pattern) and not matches(imported, allowed + PARTS.get(name, ())):
            may = ", ".join(allowed) or "nothing of the project"
            yield f"{name} imports {imported}: {pattern} may import only {may}"
    inside = name.rpartition(".")[0] == imported.rpartition(".")[0]
    if matches(imported, CONCRETE) and not matches(imported, NOT_CONCRETE) and not inside and name not in COMPOSERS:
        yield f"{name} imports {imported}: only {', '.join(COMPOSERS)} names concrete classes"
    for pattern, above in ABOVE.items():
        if fnmatch(imported, pattern) and not matches(name, above):
            yield f"{name} imports {imported}: only {', '.join(above)} may"


def test_imports_point_one_way() -> None:
    found = modules()
    known = set(found)
    assert len(known) > 80
    broken = [
        problem
        for name, path in sorted(found.items())
        for imported in imports(path.read_text(encoding="utf-8"), known)
        for problem in violations(name, imported)
    ]
    assert broken == []


@pytest.mark.parametrize(
    ("name", "imported"),
    [
        ("isa.x86.alu", "emu.memory"),
        ("isa.x86.alu", "capstone"),
        ("guests.build", "capstone.x86"),
        ("emu.monitor", "emu.devices.pic"),
        ("emu.monitor", "emu.machine"),
        ("emu.devices.serial", "emu.devices.pic"),
        ("emu.devices.bios.video", "emu.devices.vga"),
        ("emu.devices.vga", "emu.memory"),
        ("emu.engines.translate", "emu.backends.unicorn"),
        ("emu.engines.translate", "emu.engines.interpret"),
        ("emu.backends.fake", "emu.backends.unicorn"),
        ("emu.engines.translate", "unicorn"),
        ("emu.doctor", "emu.backends.unicorn"),
        ("emu.cli", "emu.machine"),
        ("emu.machine", "emu.cli_run"),
        ("emu.cli", "rich.table"),
        ("emu.bus", "emu.errors"),
        ("emu.loader.elf", "emu.machine"),
        ("emu.trace.aggregate", "emu.monitor"),
        ("emu.trace.jsonl", "perfetto.trace_builder"),
    ],
)
def test_rules_can_fail(name: str, imported: str) -> None:
    assert list(violations(name, imported))


def test_reader_finds_every_form_of_import() -> None:
    source = (
        "import emu.bus as b, os\n"
        "from emu import boards, Machine\n"
        "def f():\n    from isa.x86.state import CS\n"
        "if TYPE_CHECKING:\n    import rich.table\n"
    )
    known = {"emu", "emu.bus", "emu.boards", "isa.x86.state"}
    assert set(imports(source, known)) == {"emu.bus", "os", "emu.boards", "emu", "isa.x86.state", "rich.table"}


def test_command_line_loads_nothing_heavy() -> None:
    code = (
        "import sys, emu.cli, emu.__main__\n"
        "heavy = {'unicorn', 'capstone', 'keystone', 'rich', 'elftools', 'PIL'}\n"
        "heavy |= {'emu.machine', 'emu.config', 'guests'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_import_emu_loads_nothing_at_all() -> None:
    code = "import sys, emu\nprint(sorted(name for name in sys.modules if name.startswith(('emu.', 'isa', 'guests'))))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
