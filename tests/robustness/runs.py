"""Runs of random guests: whatever the bytes, a run ends in an outcome a guest could have brought about.

Every seed stands for one run: `python -m tests.robustness.runs --count 100000` makes many and prints the seeds that
lost something; those become cases of `test_robustness.py`.
"""

from __future__ import annotations

import random
import struct
import sys
import time
from collections import Counter
from dataclasses import dataclass

import click
from rich.progress import track

from emu import Machine, MachineConfig
from emu.exits import Ending, EndReason

INSTRUCTIONS = 3000
SECONDS = 2.0  # of host time, after which the monitor ends a run
ORG = 0x100000
SPACES = 10_000_000
TABLES, TABLES_END = 0x110000, 0x1C0000
CODE_64 = 0x08  # selector of the code segment that a flat 64-bit guest starts in
OUTCOMES = frozenset((
    EndReason.INSTRUCTIONS, EndReason.HALTED, EndReason.TRIPLE_FAULT, EndReason.DEBUG_EXIT, EndReason.RESET,
    EndReason.NOT_IMPLEMENTED, EndReason.POWER_OFF, EndReason.TIMEOUT,
))  # fmt: skip
# Openings of instructions that pure chance finds too rarely: system instructions, far transfers, port accesses.
_OPENINGS = (
    "0f01 0f00 0f20 0f22 0f21 0f23 0f30 0f32 0fa2 0f31 0f05 0f07 0f34 0f35 0fc7 0fae 0f0b cf 48cf cb ca0000 ea 9a "
    "cd80 cc f1 ce fa fb f4 9c 9d e4 e5 e6 e7 ec ed ee ef 6c 6e f36c f36e f3a4 f3a5 f3ab f2ae 8ed8 8ed0 8ec0 8ee0 "
    "0fb2 0fa1 0fa9 1f 17 07 0f01f8 0f09 0f08 0f06 0f0a d9 dd db df c8 c9 e8 e9 eb 74 75 e2 e3 ff f0 66 67 2e 36 64 65 "
    "0f10 0f11 0f28 0f6f 0f7f c4 c5 8f b8000000 81 83 89 8b a1 a3 a5 aa ab ac"
)
PIECES = [bytes.fromhex(opening) for opening in _OPENINGS.split()]


@dataclass(frozen=True, slots=True)
class Run:
    """One random guest."""

    seed: int
    engine: str
    mode: int
    kind: str
    image: bytes


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
    put(
        ORG, b"\x0f\x01\x1c\x25" + struct.pack("<I", ORG + 0x40) + b"\xe9" + struct.pack("<i", 0x3000 - 13)
    )  # lidt; jmp
    put(ORG + 0x40, struct.pack("<HQ", 0xFFF, ORG + 0x1000))
    # mov esp, STACK; mov ecx, [COUNT]; inc ecx; mov [COUNT], ecx; jmp [rcx * 8 + STARTS]
    count, table = ORG + 0x60, ORG + 0x2000
    handler = b"\xbc" + struct.pack("<I", ORG + 0x1000) + b"\x8b\x0c\x25" + struct.pack("<I", count) + b"\xff\xc1"
    handler += b"\x89\x0c\x25" + struct.pack("<I", count) + b"\xff\x24\xcd" + struct.pack("<I", table)
    put(ORG + 0x80, handler)
    put(table, b"".join(struct.pack("<Q", start) for start in (*starts, at)))
    gate = ORG + 0x80
    for vector in range(256):
        put(ORG + 0x1000 + vector * 16, struct.pack("<HHHHQ", gate & 0xFFFF, CODE_64, 0x8E00, gate >> 16, 0))
    return bytes(image)


def make(seed: int) -> Run:
    """The run of a seed; those from SPACES on are about 64-bit page tables."""
    rng = random.Random(seed)
    engine = rng.choice(("translate", "translate", "interpret"))
    if seed >= SPACES:
        return Run(seed, engine, 64, "spaces", spaces(rng))
    kind = rng.choice(("code", "code", "tables"))
    mode = 32 if kind == "tables" else rng.choice((16, 32, 64))
    return Run(seed, engine, mode, kind, tables(rng) if kind == "tables" else code(rng, rng.choice((64, 512, 4096))))


def execute(run: Run) -> Ending:
    """Run it; any exception that gets out of here is a finding."""
    config = MachineConfig(
        run.image, engine=run.engine, format="flat", mode=run.mode, org=0x7C00 if run.mode == 16 else ORG,
        memory=4 << 20, max_instructions=INSTRUCTIONS, deterministic=True, timeout=SECONDS,
    )  # fmt: skip
    with Machine(config) as machine:
        return machine.run().ending


def check(seed: int) -> Ending:
    """Execute a seed's run and require an outcome that a guest can bring about, in time.

    A time-out is one of them: a handler whose first instruction faults keeps real processors busy for ever, too.
    """
    started = time.process_time()  # other programs may keep the processor for long
    ending = execute(make(seed))
    late = time.process_time() - started - SECONDS
    if ending.reason not in OUTCOMES or late > 10:
        raise AssertionError(f"seed {seed} ended {late:.1f} s late with {ending}")
    return ending


@click.command()
@click.option("--count", default=1000, show_default=True)
@click.option("--seed", default=1, show_default=True, help="The first seed.")
def main(count: int, seed: int) -> None:
    """Make many runs; prints every seed that lost something, and how the others ended."""
    outcomes: Counter[str] = Counter()
    lost = []
    started = time.perf_counter()
    for number in track(range(seed, seed + count), disable=not sys.stderr.isatty()):
        try:
            outcomes[check(number).reason.value] += 1
        except Exception as error:
            lost.append(number)
            click.echo(f"seed {number}: {type(error).__name__}: {error}")
    click.echo(
        f"{count} runs in {time.perf_counter() - started:.0f} s: {dict(outcomes.most_common())}, lost {len(lost)}"
    )
    sys.exit(bool(lost))


if __name__ == "__main__":
    main()
