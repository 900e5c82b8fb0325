"""Every reason that vemu counts has a name and an explanation."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from emu.errors import UsageError
from emu.trace.explain import EXPLANATIONS, explain, listing
from emu.trace.reasons import CAUSES, EXITS, PREFIXES, cause_of, place_text, reasons_of
from emu.trace.record import NO_OPERAND
from isa.x86 import rewrite
from isa.x86.sensitive import ROWS

ROOT = Path(__file__).resolve().parents[2]
COUNTERS = (*(ROOT / "emu" / "engines").glob("*.py"), ROOT / "emu" / "monitor.py")


def counted(node: ast.expr) -> Iterator[str]:
    """The texts that the index of `exits[...]` can be; a variable part of one reads N."""
    match node:
        case ast.Constant(str(text)):
            yield text
        case ast.JoinedStr(parts):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "N" for part in parts)
        case ast.IfExp(_, body, other):
            yield from counted(body)
            yield from counted(other)
        case ast.Name("reason"):  # a callout's, collected below
            pass
        case _:
            raise AssertionError(f"exits[{ast.unparse(node)}]: what is counted there?")


def counters() -> set[str]:
    """Reasons in the source of engines and monitor."""
    found: set[str] = set()
    for path in COUNTERS:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store):
                target = node.value
                if isinstance(target, ast.Attribute) and target.attr == "exits":
                    found |= set(counted(node.slice))
    return found


def callouts() -> set[str]:
    """What `callout_reason` returns, besides rows of the sensitive table."""
    tree = ast.parse((ROOT / "isa" / "x86" / "rewrite.py").read_text(encoding="utf-8"))
    (function,) = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == "callout_reason"]
    returned = [n.value for n in ast.walk(function) if isinstance(n, ast.Return)]
    texts = {str(value.value) for value in returned if isinstance(value, ast.Constant)}
    named = {getattr(rewrite, value.id) for value in returned if isinstance(value, ast.Name)}
    return (texts | named) - {""}


def test_the_source_is_read() -> None:
    assert {"hidden page fault", "memory", "trap N", "code write", "link", "indirect"} <= counters()
    assert {"exception N", "interrupt", "port read", "port write", "hlt"} <= counters()
    assert {"undefined", "segment check", "fpu trap", "misexecuted"} <= callouts()


@pytest.mark.parametrize("reason", sorted({*ROWS, *counters(), *callouts()}))
def test_every_reason_is_explained(reason: str) -> None:
    known = reason in CAUSES or any(reason.startswith(prefix) for prefix in PREFIXES)
    assert known, f"{reason!r} has no line in emu/trace/reasons.py"
    assert explain(reason).name == cause_of(reason).exit
    assert reason in explain(reason).reasons


@pytest.mark.parametrize("name", EXITS)
def test_explanations_are_whole(name: str) -> None:
    text = EXPLANATIONS[name]
    for part in (text.what, text.why, text.instructions, text.cost, text.avoid):
        assert part.strip()
    for sentence in (text.what, text.why, text.cost, text.avoid):
        assert sentence.endswith(".")
        assert "  " not in sentence
    # costs belong to a machine and a release: they are measured, not told
    assert not any(unit in explain(name).cost for unit in (" ns", " us", " cycles", " ms"))
    assert f"--only {name}" in explain(name).cost
    assert reasons_of(name)


def test_nothing_is_explained_that_does_not_exist() -> None:
    assert set(EXPLANATIONS) == set(EXITS)
    assert [name for name, _ in listing()] == list(EXITS)


@pytest.mark.parametrize(
    "spelling", ["IO_INSTRUCTION", "io-instruction", "io instruction", "out", "OUT", "port-read", " ins "]
)
def test_spellings(spelling: str) -> None:
    assert explain(spelling).name == "IO_INSTRUCTION"


def test_unknown() -> None:
    with pytest.raises(UsageError, match="explain VMRUN: no such exit"):
        explain("VMRUN")


def test_unlisted_reasons_keep_a_name() -> None:
    assert cause_of("page table-write 2") == ("PAGE_TABLE_WRITE_2", "")


@pytest.mark.parametrize(
    ("space", "operand", "access", "text"),
    [
        ("port", 0x3F8, "w", "0x3f8:POUT"), ("port", 0x60, "r", "0x60:PIN"), ("memory", 0xFEE0B0, "w", "0xfee0b0:W"),
        ("msr", 0x1B, "r", "0x1b:R"), ("cr", 3, "w", "CR3:W"), ("dr", 7, "r", "DR7:R"),
        ("linear", 0x1000, "", "0x1000"),
        ("vector", 32, "", "vector 0x20"), ("port", NO_OPERAND, "w", ""), ("", 5, "w", ""),
    ],
)  # fmt: skip
def test_places(space: str, operand: int, access: str, text: str) -> None:
    assert place_text(space, operand, access) == text
