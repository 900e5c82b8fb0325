"""Invariant 1: no instruction of the sensitive table stands in the code cache as the guest wrote it."""

import functools
from collections.abc import Iterator

import pytest

from emu.backends.unicorn import UnicornBackend
from emu.bus import Bus
from emu.dbt.block import Block
from emu.dbt.cache import CodeCache
from emu.dbt.translator import Translator
from emu.memory import GuestMemory
from isa.base import Flow
from isa.x86.decode import Decoder
from isa.x86.rewrite import BlockMode
from isa.x86.sensitive import ROWS, row_of

ORG = 0x10000
# One encoding (hex) of every row and form; "-64" marks those that 64-bit mode lacks.
ENCODINGS: dict[str, list[str]] = {
    "cli": ["fa"], "sti": ["fb"], "pushf": ["9c", "669c"], "popf": ["9d", "669d"], "hlt": ["f4"],
    "in": ["e480", "e580", "ec", "ed", "66ed"], "out": ["e680", "e780", "ee", "ef"], "ins": ["6c", "6d", "f36c"],
    "outs": ["6e", "6f", "f36f"], "int": ["cd80", "cdf0"], "int3": ["cc"], "into": ["ce-64"], "int1": ["f1"],
    "iret": ["cf", "66cf"], "far_call": ["9a785634120800-64", "ff18"], "far_jmp": ["ea785634120800-64", "ff28"],
    "far_ret": ["cb", "ca0800"], "mov_from_cr": ["0f20c0", "0f20d8"], "mov_to_cr": ["0f22c0", "0f22d8", "0f22e0"],
    "mov_from_dr": ["0f21f8"], "mov_to_dr": ["0f23f8"], "lmsw": ["0f01f0", "0f0130"], "smsw": ["0f01e0", "0f0120"],
    "clts": ["0f06"], "lgdt": ["0f0110"], "lidt": ["0f0118"], "sgdt": ["0f0100"], "sidt": ["0f0108"],
    "lldt": ["0f00d0"], "ltr": ["0f00d8"], "sldt": ["0f00c0", "0f0000"], "str": ["0f00c8"], "lar": ["0f02c1"],
    "lsl": ["0f03c1"], "verr": ["0f00e0"], "verw": ["0f00e8"], "arpl": ["63c8-64"],
    "push_seg": ["06-64", "0e-64", "16-64", "1e-64", "0fa0", "0fa8"],
    "pop_seg": ["07-64", "17-64", "1f-64", "0fa1", "0fa9"],
    "mov_from_seg": ["8cd8", "8c18"], "mov_to_seg": ["8ed8", "8e18", "8ed0"],
    "load_far_pointer": ["c418-64", "c518-64", "0fb218", "0fb418", "0fb518"], "cpuid": ["0fa2"], "rdtsc": ["0f31"],
    "rdtscp": ["0f01f9"], "rdpmc": ["0f33"], "rdmsr": ["0f32"], "wrmsr": ["0f30"], "swapgs": ["0f01f8"],
    "syscall": ["0f05"], "sysret": ["0f07"], "sysenter": ["0f34"], "sysexit": ["0f35"], "invlpg": ["0f0138"],
    "invpcid": ["660f388200"], "invd": ["0f08"], "wbinvd": ["0f09"], "stac": ["0f01cb"], "clac": ["0f01ca"],
    "rdfsbase": ["f30faec0"], "rdgsbase": ["f30faec8"], "wrfsbase": ["f30faed0"], "wrgsbase": ["f30faed8"],
    "xgetbv": ["0f01d0"], "xsetbv": ["0f01d1"], "xsave": ["0fae20", "0fae28", "0fc720"], "rdpkru": ["0f01ee"],
    "wrpkru": ["0f01ef"], "monitor": ["0f01c8"], "mwait": ["0f01c9"], "rdrand": ["0fc7f0"], "rdseed": ["0fc7f8"],
    "ud": ["0f0b", "0fb9c0", "0fff"], "rsm": ["0faa"], "vmx": ["0f01c1", "0f01d8", "0f78c1"],
    "serialize": ["0f01e8"],
    "undefined_feature": ["660f38dcc1", "660f3a44c100", "c5f058c1", "0f38c9c1"],
}  # fmt: skip


@pytest.fixture
def world() -> Iterator[tuple[GuestMemory, UnicornBackend, Translator]]:
    memory = GuestMemory(2 << 20, Bus("memory"))
    backend = UnicornBackend(memory)
    cache = CodeCache(backend, memory.watch, memory.unwatch)
    yield memory, backend, Translator(memory, cache, backend)
    backend.close()
    memory.close()


@functools.cache  # modes are compared by identity
def block_mode(mode: int, user: bool, iopl: int) -> BlockMode:
    return BlockMode(mode, 3 if user else 0, iopl, False, False, 0, True, 0, False, flat_stack=mode != 16)


def translate(
    world: tuple[GuestMemory, UnicornBackend, Translator], mode: BlockMode, code: bytes
) -> tuple[Block, bytes]:
    memory, backend, translator = world
    memory.write_bytes(ORG, code + b"\xeb\xfe")
    block = translator.translate(mode, ORG, ORG, ORG, lambda linear, user: (0, b""))
    return block, bytes(backend.code[block.start : block.end])


def sensitive_left(host: bytes, mode: int, leave: bytes) -> list[str]:
    """Names of the sensitive instructions in host code, exits left out."""
    decoder, at, names = Decoder(mode), 0, []
    while at < len(host):
        insn = decoder.decode(host[at : at + 15].ljust(15, b"\x90"))
        assert insn is not None
        row = row_of(insn)
        if row is not None and insn.raw != leave:
            names.append(row.name)
        at += insn.size
    return names


def test_the_encodings_cover_the_whole_table() -> None:
    assert set(ENCODINGS) == set(ROWS)


@pytest.mark.parametrize("mode", [16, 32, 64])
@pytest.mark.parametrize("name", sorted(ROWS))
def test_row_is_recognised_and_never_copied(
    world: tuple[GuestMemory, UnicornBackend, Translator], name: str, mode: int
) -> None:
    leave = world[1].layout.leave
    for encoding in ENCODINGS[name]:
        if encoding.endswith("-64") and mode == 64:
            continue
        code = bytes.fromhex(encoding.removesuffix("-64"))
        if mode == 16 and encoding.startswith(("9a", "ea")):
            code = code[:5]
        insn = Decoder(mode).decode(code.ljust(15, b"\x90"))
        assert insn is not None
        row = row_of(insn)
        if insn.flow is not Flow.INVALID:  # some exist in 64-bit mode only
            assert row is not None, f"{encoding} in {mode}-bit mode is {insn.text()}, which no row claims"
            assert row.name == name
        for user, iopl in ((False, 0), (True, 0), (True, 3)):
            _, host = translate(world, block_mode(mode, user, iopl), code)
            left = sensitive_left(host, mode, leave)
            # the in-cache emulations use the machine's own PUSHF and POPF, whose IF and IOPL are the monitor's, and
            # in 64-bit code its bases of FS and GS, which are the guest's
            allowed = {
                "pushf": ["pushf"], "popf": ["popf"], "stac": ["pushf", "popf"], "clac": ["pushf", "popf"],
                "swapgs": ["rdgsbase", "wrgsbase"],
            }  # fmt: skip
            assert left in ([], allowed.get(name)), (encoding, left)
            if left:
                assert len(host) > len(code) + 20
