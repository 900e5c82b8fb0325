"""Makes the random guests of `tests.robustness.runs`: code, tables, address spaces, accesses to devices."""

from __future__ import annotations

import random
import struct
from typing import Final

from emu import boards

ORG: Final = 0x100000
TABLES, TABLES_END = 0x110000, 0x1C0000
CODE: Final = 0x08  # selector of the code segment that a flat 32-bit or 64-bit guest starts in
# Openings of instructions that pure chance finds too rarely: system instructions, far transfers, port accesses.
_OPENINGS = (
    "0f01 0f00 0f20 0f22 0f21 0f23 0f30 0f32 0fa2 0f31 0f05 0f07 0f34 0f35 0fc7 0fae 0f0b cf 48cf cb ca0000 ea 9a "
    "cd80 cc f1 ce fa fb f4 9c 9d e4 e5 e6 e7 ec ed ee ef 6c 6e f36c f36e f3a4 f3a5 f3ab f2ae 8ed8 8ed0 8ec0 8ee0 "
    "0fb2 0fa1 0fa9 1f 17 07 0f01f8 0f09 0f08 0f06 0f0a d9 dd db df c8 c9 e8 e9 eb 74 75 e2 e3 ff f0 66 67 2e 36 64 65 "
    "0f10 0f11 0f28 0f6f 0f7f c4 c5 8f b8000000 81 83 89 8b a1 a3 a5 aa ab ac"
)
PIECES = [bytes.fromhex(opening) for opening in _OPENINGS.split()]
# Ports of all devices, but for those whose writes reset the machine at once: the first one and how many.
_PORTS: Final = (
    (boards.PIC_MASTER, 2), (boards.PIC_SLAVE, 2), (boards.PIC_ELCR, 2), (boards.PIT, 4), (boards.KEYBOARD_DATA, 5),
    (boards.RTC, 2), (boards.POST, 1), (boards.SMI_COMMAND, 2), (boards.DEBUGCON, 1),
    (boards.IDE, 8), (boards.IDE_CONTROL, 1), (boards.IDE_2, 8), (boards.IDE_2_CONTROL, 1), (boards.COM1, 8),
    (boards.COM2, 8), (boards.VGA, 0x20), (boards.PCI, 1), (boards.PCI + 4, 4), (boards.POWER_MANAGEMENT, 0x10),
)  # fmt: skip
_ATA_COMMANDS: Final = (0x20, 0x21, 0x24, 0x29, 0x30, 0x34, 0x39, 0x40, 0x91, 0xC4, 0xC5, 0xC6, 0xE7, 0xEC, 0xEF, 0x08)
_CARD: Final = 0x10000  # bytes from one PCI card's memory to the next one's


def code(rng: random.Random, length: int) -> bytes:
    """Random bytes, mixed with openings of interesting instructions."""
    out = bytearray()
    share = rng.choice((0.0, 0.2, 0.6))
    while len(out) < length:
        out += rng.choice(PIECES) if rng.random() < share else bytes((rng.getrandbits(8),))
    return bytes(out[:length])


def tables(rng: random.Random) -> bytes:
    """32-bit code that loads random descriptor tables and page tables and goes on with random code.

    The tables lie behind the code: GDT, IDT and a page directory of random entries, most of them present.
    """
    at = ORG + 0x1000
    setup = b"\x0f\x01\x15" + struct.pack("<I", ORG + 0x100)  # lgdt
    setup += b"\x0f\x01\x1d" + struct.pack("<I", ORG + 0x108)  # lidt
    if rng.random() < 0.7:
        setup += b"\xb8" + struct.pack("<I", rng.choice((0, 0x10, 0x20, 0x30))) + b"\x0f\x22\xe0"  # mov cr4, eax
        setup += b"\xb8" + struct.pack("<I", at + 0x1000) + b"\x0f\x22\xd8"  # mov cr3, eax
        setup += b"\xb8" + struct.pack("<I", 0x8000_0011 | rng.getrandbits(1) << 16) + b"\x0f\x22\xc0"  # mov cr0, eax
    setup += b"\xfb" if rng.random() < 0.5 else b""
    image = bytearray(setup + code(rng, 0x100 - len(setup)))
    image += struct.pack("<HI", rng.choice((0x7F, 0xFFFF, 7)), at) + b"\0\0"
    image += struct.pack("<HI", rng.choice((0x7FF, 0xFF, 0)), at + 0x800) + b"\0\0"
    image += code(rng, 0x1000 - len(image))
    for _ in range(0x1000 // 8):
        low, high = rng.getrandbits(32), rng.getrandbits(32)
        if rng.random() < 0.6:  # a flat descriptor of a random type
            low, high = low & 0xFFFF0000 | 0xFFFF & rng.getrandbits(16), 0x00CF8000 | rng.getrandbits(7) << 8
        image += struct.pack("<II", low, high)
    for number in range(1024):
        flags = 0x87 if rng.random() < 0.5 else rng.getrandbits(12)
        image += struct.pack("<I", (number << 22 if rng.random() < 0.7 else rng.getrandbits(32) & ~0xFFF) | flags)
    return bytes(image)


def spaces(rng: random.Random) -> bytes:
    """64-bit code that switches at random between roots over random tables, which it changes on the way.

    An exception leads to the next piece of code, as long as IDT, stack and handler stay mapped.
    """
    roots = [TABLES + number * 0x1000 for number in range(3)]
    image = bytearray(0xD0000)

    def put(at: int, data: bytes) -> None:
        image[at - ORG : at - ORG + len(data)] = data

    for at in range(TABLES, TABLES_END, 8):
        if rng.random() < 0.2:
            flags = rng.choice((7, 0x67, 0x87, 0xE7, 0x27, rng.getrandbits(12))) | (rng.random() < 0.1) << 63
            put(at, struct.pack("<Q", rng.randrange(TABLES, TABLES_END) & -0x1000 | flags))
    for number, root in enumerate(roots):  # the first 2 MiB as they are, in one page or in many
        first, second, last = (TABLES_END - (3 * number + step) * 0x1000 for step in (1, 2, 3))
        put(root, struct.pack("<Q", first | 7))
        put(first, struct.pack("<Q", second | 7))
        put(second, struct.pack("<Q", 0x87 if rng.random() < 0.3 else last | 7))
        put(last, b"".join(struct.pack("<Q", page << 12 | 7) for page in range(512)))
    pieces = []
    for _ in range(200):
        linear = (rng.choice((0, 0xFFFF << 48)) | rng.getrandbits(47)) & rng.choice((-1, 0x3F_FFFF, -0x1000))
        target = struct.pack("<Q", linear if rng.random() < 0.5 else rng.randrange(TABLES, TABLES_END) & -8)
        value = struct.pack("<Q", rng.randrange(TABLES, TABLES_END) & -0x1000 | rng.choice((0, 7, 0x67, 0x87, 0xE7)))
        pieces.append(rng.choice((
            b"\xb8" + struct.pack("<I", rng.choice(roots)) + b"\x0f\x22\xd8",  # mov eax, root; mov cr3, rax
            b"\x48\xbe" + target + b"\x48\xb8" + value + b"\x48\x89\x06",  # ... mov rax, value; mov [rsi], rax
            b"\x48\xbe" + target + b"\x48\x8b\x06",  # mov rsi, target; mov rax, [rsi]
            b"\x48\xbe" + target + b"\x0f\x01\x3e",  # mov rsi, target; invlpg [rsi]
            b"\x0f\x20\xd8\x0f\x22\xd8",  # mov rax, cr3; mov cr3, rax
            b"\x48\xb8" + target + b"\xff\xd0",  # mov rax, target; call rax
            code(rng, 8),
        )))  # fmt: skip
    at, starts = ORG + 0x3000, []
    for piece in pieces:
        starts.append(at)
        put(at, piece)
        at += len(piece)
    put(at, b"\xf4")
    load_idt, jump = b"\x0f\x01\x1c\x25" + struct.pack("<I", ORG + 0x40), b"\xe9" + struct.pack("<i", 0x3000 - 13)
    put(ORG, load_idt + jump)
    put(ORG + 0x40, struct.pack("<HQ", 0xFFF, ORG + 0x1000))
    # mov esp, STACK; mov ecx, [COUNT]; inc ecx; mov [COUNT], ecx; jmp [rcx * 8 + STARTS]
    count, table = ORG + 0x60, ORG + 0x2000
    handler = b"\xbc" + struct.pack("<I", ORG + 0x1000) + b"\x8b\x0c\x25" + struct.pack("<I", count) + b"\xff\xc1"
    handler += b"\x89\x0c\x25" + struct.pack("<I", count) + b"\xff\x24\xcd" + struct.pack("<I", table)
    put(ORG + 0x80, handler)
    put(table, b"".join(struct.pack("<Q", start) for start in (*starts, at)))
    gate = ORG + 0x80
    for vector in range(256):
        put(ORG + 0x1000 + vector * 16, struct.pack("<HHHHQ", gate & 0xFFFF, CODE, 0x8E00, gate >> 16, 0))
    return bytes(image)


def devices(rng: random.Random) -> bytes:
    """32-bit code that uses ports and registers of all devices at random, which may interrupt it.

    At ORG + 4000h lies a page of random memory, behind it the IDT and a handler that only ends the interrupt.
    """
    image = bytearray(b"\x0f\x01\x1d" + struct.pack("<I", ORG + 0x5FF0))  # lidt
    while len(image) < 0x3000:
        image += rng.choice((_port, _port, _ata, _pci, _register, _register, _repeated, _switch))(rng)
    image = image.ljust(0x3FFF, b"\x90") + b"\xf4"
    image += b"".join(struct.pack("<I", _value(rng)) for _ in range(0x400))
    handler = ORG + 0x5800
    image += struct.pack("<HHHH", handler & 0xFFFF, CODE, 0x8E00, handler >> 16) * 256
    image += b"\x50\xb0\x20\xe6\x20\xe6\xa0\x31\xc0\xa3\xb0\x00\xe0\xfe\x58\xcf"  # EOI of both PICs and the local APIC
    return bytes(image.ljust(0x5FF0, b"\0")) + struct.pack("<HI", 0x7FF, ORG + 0x5000)


def _switch(rng: random.Random) -> bytes:
    """CLI or STI, and more of the former."""
    return rng.choice((b"\xfa", b"\xfa", b"\xfb"))


def _value(rng: random.Random) -> int:
    """A number that is likely to mean something: small, all ones, one bit, or an address in RAM."""
    return rng.choice((
        rng.randrange(16), rng.getrandbits(8), rng.getrandbits(16), rng.getrandbits(32), 0xFFFF_FFFF,
        1 << rng.randrange(32), ORG + rng.randrange(0x4000, 0x5000), ORG + 0x4000,
    ))  # fmt: skip


def _transfer(rng: random.Random, port: int, value: int | None = None, size: int = 0) -> bytes:
    """IN, or OUT with a value, of so many bytes or of any size."""
    size = size or rng.choice((1, 1, 1, 2, 4))
    out = b"\xba" + struct.pack("<I", port)  # mov edx, port
    if value is not None:
        out += b"\xb8" + struct.pack("<I", value)  # mov eax, value
    opcode = (0xEC if value is None else 0xEE) + (size > 1)
    return out + (b"\x66" if size == 2 else b"") + bytes((opcode,))


def _port(rng: random.Random) -> bytes:
    first, count = rng.choice(_PORTS)
    return _transfer(rng, first + rng.randrange(count), _value(rng) if rng.random() < 0.7 else None)


def _ata(rng: random.Random) -> bytes:
    """A command with some of its registers."""
    base = rng.choice((boards.IDE, boards.IDE, boards.IDE_2))
    out = b"".join(_transfer(rng, base + rng.randrange(1, 7), _value(rng), 1) for _ in range(rng.randrange(5)))
    out += _transfer(rng, base + 6, rng.choice((0xA0, 0xB0, 0xE0, 0xF0)), 1)
    return out + _transfer(rng, base + 7, rng.choice(_ATA_COMMANDS), 1)


def _pci(rng: random.Random) -> bytes:
    """A configuration access to one of the first slots."""
    address = 1 << 31 | rng.randrange(6) << 11 | rng.randrange(4) << 8 | rng.randrange(0, 0x80, 4)
    value = _value(rng) if rng.random() < 0.5 else None
    return _transfer(rng, boards.PCI, address, 4) + _transfer(rng, boards.PCI + 4 + rng.randrange(4), value)


def _register(rng: random.Random) -> bytes:
    """An access to memory that is a device: the APICs, and the cards, whose lower registers count most."""
    at = rng.choice((
        boards.LOCAL_APIC + 16 * rng.randrange(64), boards.IO_APIC + rng.choice((0, 16)),
        boards.VGA_TEXT + rng.randrange(boards.VGA_TEXT_SIZE),
        boards.PCI_CARDS + _CARD * rng.randrange(6) + rng.randrange(0x3010),
        boards.PCI_CARDS + _CARD * rng.randrange(6) + rng.choice((0, 0x1000, 0x2000, 0x3000)) + rng.randrange(0x40),
    ))  # fmt: skip
    prefix, opcode = rng.choice(((b"", 1), (b"", 1), (b"\x66", 1), (b"", 0)))
    if rng.random() < 0.3:
        return prefix + bytes((0xA0 | opcode,)) + struct.pack("<I", at)  # mov eax, [at]
    return b"\xb8" + struct.pack("<I", _value(rng)) + prefix + bytes((0xA2 | opcode,)) + struct.pack("<I", at)


def _repeated(rng: random.Random) -> bytes:
    """REP INS or OUTS of a few elements."""
    first, count = rng.choice(_PORTS)
    out = b"\xba" + struct.pack("<I", first + rng.randrange(count)) + b"\xb9" + struct.pack("<I", rng.randrange(300))
    out += b"\xbe" + struct.pack("<I", ORG + 0x4000) + b"\xbf" + struct.pack("<I", ORG + 0x4000)  # mov esi, edi
    return out + rng.choice((b"\xf3\x6c", b"\xf3\x66\x6d", b"\xf3\x6d", b"\xf3\x6e", b"\xf3\x66\x6f", b"\xf3\x6f"))
