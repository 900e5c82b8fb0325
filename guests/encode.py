"""Encodes one x86 instruction, every symbol already a number, with keystone and a few corrections of it."""

from __future__ import annotations

import re

import keystone

_MODES = {16: keystone.KS_MODE_16, 32: keystone.KS_MODE_32, 64: keystone.KS_MODE_64}

# What keystone 0.9.2 lacks, or gives the wrong operand size in the mode: the bytes are from the SDM vol. 2 opcode maps.
_FIXED = {
    16: {"ret": "c3", "retf": "cb", "movsd": "66a5", "rep movsd": "f366a5", "pushfd": "669c", "popfd": "669d"},
    32: {
        "iret": "cf",
        "movsd": "a5",
        "rep movsd": "f3a5",
        "pushfw": "669c",
        "popfw": "669d",
        "push es": "06",
        "push cs": "0e",
        "push ss": "16",
        "push ds": "1e",
        "push fs": "0fa0",
        "push gs": "0fa8",
        "pop es": "07",
        "pop ss": "17",
        "pop ds": "1f",
        "pop fs": "0fa1",
        "pop gs": "0fa9",
    },
    64: {
        "movsd": "a5",
        "rep movsd": "f3a5",
        "sysret": "0f07",
        "sysretq": "480f07",
        "sysexit": "0f35",
        "sysexitq": "480f35",
    },
}
_TABLE_REGISTER = ("lgdt", "lidt", "sgdt", "sidt")
_DECIMAL = re.compile(r"(?<![\w.])\d+(?![\w.])")
_FAR = re.compile(r"(ljmp|lcall) (0x[0-9a-f]+):(0x[0-9a-f]+)")
_BRANCH = re.compile(r"(call|jmp|j[a-z]{1,4}) (0x[0-9a-f]+)")
_RIP_ONLY = re.compile(r"\[rip\+to:(0x[0-9a-f]+)\]")
_FAR_OPCODE = {"ljmp": b"\xea", "lcall": b"\x9a"}


class EncodeError(Exception):
    """keystone refused an instruction, or an operand does not fit."""


def raw(text: str, bits: int, address: int = 0) -> bytes:
    """What keystone makes of 16-, 32- or 64-bit code; several instructions are separated by semicolons or line ends.

    Numbers go to it in hexadecimal, because now and then, depending on what its memory held before, it takes decimal
    ones for such.
    """
    spelled = _DECIMAL.sub(lambda match: hex(int(match[0])), text)
    return bytes(keystone.Ks(keystone.KS_ARCH_X86, _MODES[bits]).asm(spelled, address, True)[0])


class Encoder:
    """Turns the text of single instructions into bytes; one keystone engine per mode."""

    def __init__(self) -> None:
        self._engines = {}
        for bits, mode in _MODES.items():
            engine = keystone.Ks(keystone.KS_ARCH_X86, mode)
            engine.syntax = keystone.KS_OPT_SYNTAX_INTEL
            self._engines[bits] = engine

    def encode(self, text: str, address: int, bits: int) -> bytes:
        """Bytes of `text` at `address` in `bits`-bit code; `[rip+to:0xADDR]` names an absolute target."""
        fixed = _FIXED[bits].get(text)
        if fixed is not None:
            return bytes.fromhex(fixed)
        far = _FAR.fullmatch(text)
        if far is not None and bits != 64:
            width = bits // 8
            offset, selector = int(far[3], 16), int(far[2], 16)
            if offset >= 1 << bits:
                raise EncodeError(f"offset {offset:#x} does not fit a {bits}-bit far pointer")
            return _FAR_OPCODE[far[1]] + offset.to_bytes(width, "little") + selector.to_bytes(2, "little")
        relative = _RIP_ONLY.search(text)
        if relative is not None:
            return self._rip_relative(text, relative, address)
        code = self._keystone(text, address, bits)
        if bits == 16:
            return self._shrink16(text, code, address)
        if bits == 32 and text.startswith(_TABLE_REGISTER):
            # keystone picks the 16-bit form (24-bit base, SDM vol. 2 LGDT): drop its operand-size prefix
            return code.removeprefix(b"\x66")
        return code

    def _keystone(self, text: str, address: int, bits: int) -> bytes:
        try:
            encoded, count = self._engines[bits].asm(text, address, True)
        except keystone.KsError as error:
            raise EncodeError(f"{text!r} ({bits}-bit): {error}") from None
        if not encoded or not count:
            raise EncodeError(f"{text!r} ({bits}-bit): keystone gave no bytes")
        return bytes(encoded)

    def _rip_relative(self, text: str, match: re.Match[str], address: int) -> bytes:
        """A displacement counts from the end of the instruction, so its length is found first (SDM vol. 2, 2.2.1.6)."""
        target = int(match[1], 16)
        head, tail = text[: match.start()], text[match.end() :]
        length = len(self._keystone(f"{head}[rip+0x0]{tail}", address, 64))
        return self._keystone(f"{head}[rip+{target - address - length:#x}]{tail}".replace("+-", "-"), address, 64)

    @staticmethod
    def _shrink16(text: str, code: bytes, address: int) -> bytes:
        """16-bit near branches and pushes: keystone emits their 32-bit forms behind a 66h prefix."""
        branch = _BRANCH.fullmatch(text)
        if branch is not None and code[0] == 0x66:
            opcode = code[1:3] if code[1] == 0x0F else code[1:2]
            distance = int(branch[2], 16) - (address + len(opcode) + 2)
            return opcode + (distance & 0xFFFF).to_bytes(2, "little")
        if text.startswith("push 0x") and code[:2] == b"\x66\x6a":
            return code[1:]
        return code
