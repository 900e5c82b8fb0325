"""Equivalent encodings for instructions that capstone does not know, or reads wrongly in 16-bit code."""

from __future__ import annotations

from typing import Final

_LEGACY: Final = frozenset((0x66, 0x67, 0xF2, 0xF3, 0x2E, 0x36, 0x3E, 0x26, 0x64, 0x65))
_REPEATS: Final = (0xF2, 0xF3)
# Undocumented x87 register forms that every processor executes as another opcode: (opcode, upper bits of ModRM).
_ALIASES: Final = {
    (0xDC, 0xD0): (0xD8, 0xD0), (0xDC, 0xD8): (0xD8, 0xD8), (0xDD, 0xC8): (0xD9, 0xC8), (0xDE, 0xD0): (0xD8, 0xD8),
    (0xDF, 0xC8): (0xD9, 0xC8), (0xDF, 0xD0): (0xDD, 0xD8), (0xDF, 0xD8): (0xDD, 0xD8),
}  # fmt: skip
_SERIALIZE: Final = b"\x0f\x01\xe8"  # stands in as a no-operation
_MANDATORY: Final = {0x66, 0xF2, 0xF3}
_IGNORED: Final = b"\x3e"  # a DS override, which means nothing in 64-bit mode and where there is no memory operand
# Reserved no-operations (SDM vol. 2, table A-3, 0F 0D and 0F 18 to 0F 1F), whatever ModRM.reg says.
_NOPS: Final = frozenset((0x0D, *range(0x18, 0x20)))


def _opcode_at(code: bytes, mode: int) -> int:
    at = 0
    while at < len(code) and (code[at] in _LEGACY or code[at] == 0xF0 or (mode == 64 and code[at] & 0xF0 == 0x40)):
        at += 1
    return at


def preferred(code: bytes) -> bytes | None:
    """Bytes of the same length that mean what `code` means in 64-bit code, which capstone accepts but reads wrongly.

    MOVSXD without REX.W is a plain move (capstone refuses it with 67); Intel processors ignore 66 on a conditional
    branch (SDM vol. 2, Jcc), and execute PAUSE whatever REX.B says. A REX prefix that another prefix follows means
    nothing (2.2.1).
    """
    at = _opcode_at(code, 64)
    if at >= len(code):
        return None
    head, op = code[:at], code[at]
    if any(byte & 0xF0 == 0x40 for byte in head[:-1]):
        plain = bytes(0x3E if byte & 0xF0 == 0x40 else byte for byte in head[:-1]) + head[-1:]
        return preferred(plain + code[at:]) or plain + code[at:]
    rex = head[-1] if head and head[-1] & 0xF0 == 0x40 else 0
    if op == 0x63 and not rex & 8:
        return head + b"\x8b" + code[at + 1 :]
    if op == 0x0F and 0x66 in head and code[at + 1 : at + 2] and code[at + 1] & 0xF0 == 0x80:
        return head.replace(b"\x66", _IGNORED) + code[at:]
    if op == 0x90 and 0xF3 in head and (rex & 1 or 0x66 in head):
        plain = head.replace(b"\x66", _IGNORED)
        return (plain[:-1] + bytes((rex & 0xFE,)) if rex else plain) + code[at:]
    return None


def equivalent(code: bytes, mode: int) -> bytes | None:
    """Bytes of the same length that mean the same as `code`, which capstone refused; None where there are none."""
    at = _opcode_at(code, mode)
    if at + 2 > len(code):
        return None
    first, second = code[at], code[at + 1]
    if code[at : at + 3] == _SERIALIZE and not _MANDATORY & set(code[:at]):
        return code[:at] + b"\x0f\x1f\xc0" + code[at + 3 :]
    alias = _ALIASES.get((first, second & 0xF8)) if second >= 0xC0 else None
    if alias is not None:
        return code[:at] + bytes((alias[0], alias[1] | second & 7)) + code[at + 2 :]
    if first == 0x90 and 0xF3 in code[:at]:  # PAUSE with prefixes that it ignores
        return code[:at].replace(b"\x66", _IGNORED).replace(b"\x67", _IGNORED) + code[at:]
    if first == 0x0F and second in _NOPS and at + 2 < len(code) and (second != 0x1F or code[at + 2] & 0x38):
        head = bytes(0x3E if byte in _REPEATS else byte for byte in code[:at])
        return head + b"\x0f\x1f" + bytes((code[at + 2] & 0xC7,)) + code[at + 3 :]
    return None


def as_32(code: bytes) -> tuple[bytes, int] | None:
    """16-bit code of an SSE instruction with 66 as 32-bit code, and how many bytes that is longer; None for others.

    capstone takes such a 66 for an operand-size prefix in 16-bit code, and so finds the MMX form or nothing. The two
    modes differ in the address size alone, which 67 toggles.
    """
    at = _opcode_at(code, 16)
    if 0x66 not in code[:at] or at + 2 > len(code) or code[at] != 0x0F or not _is_sse(code, at + 1):
        return None
    if 0x67 in code[:at]:
        there = code.index(0x67)
        return code[:there] + code[there + 1 :], -1
    return b"\x67" + code, 1


def _is_sse(code: bytes, at: int) -> bool:
    op = code[at]
    if op == 0x38:
        return at + 1 < len(code) and (code[at + 1] < 0xF0 or code[at + 1] == 0xF6)
    if 0xC2 <= op <= 0xC6:
        return op != 0xC3
    return 0x10 <= op <= 0x17 or 0x28 <= op <= 0x2F or op == 0x3A or 0x50 <= op <= 0x7F or 0xD0 <= op <= 0xFE
