"""The encoding classes that cases are drawn from: what a guest may execute in user mode, by opcode (SDM vol. 2, A)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

# ModRM: none, a register and an operand; 0 to 7 are opcode extensions; FIXED + n is the byte n.
NONE, BOTH, FIXED = -1, 8, 0x100
ANY, REGISTER, MEMORY = "any", "register", "memory"  # what ModRM.rm may name
OUTSIDE_64: Final = (16, 32)
ONLY_64: Final = (64,)
ALL: Final = (16, 32, 64)


@dataclass(frozen=True, slots=True)
class Row:
    """One encoding class.

    `prefix` is the mandatory prefix or 0; `sized` tells that 66 and REX.W choose the operand size, `wide` that REX.W
    alone does; `imm` lists the immediates: b, w, z (2 or 4 bytes), v (2, 4 or 8), o (of address size), s (a branch
    displacement of 1 byte), t (of 2 or 4). `vex` is the pp field of a VEX-encoded row, or -1. `setup` names what the
    operands need to be interesting, `values` how to fill vector registers (x87, f32, f64, int).
    """

    name: str
    opcode: bytes
    modrm: int = NONE
    prefix: int = 0
    rm: str = ANY
    imm: str = ""
    sized: bool = False
    wide: bool = False
    lock: bool = False
    bits: tuple[int, ...] = ALL
    setup: str = ""
    values: str = ""
    vex: int = -1


def _row(name: str, code: str, modrm: int = NONE, **rest: object) -> Row:
    return Row(name, bytes.fromhex(code), modrm, **rest)  # type: ignore[arg-type]  # the fields as keywords


def _arithmetic() -> Iterator[Row]:
    for number, name in enumerate(("add", "or", "adc", "sbb", "and", "sub", "xor", "cmp")):
        base, lock = number * 8, name != "cmp"
        yield Row(name, bytes((base,)), BOTH, lock=lock)
        yield Row(name, bytes((base + 1,)), BOTH, sized=True, lock=lock)
        yield Row(name, bytes((base + 2,)), BOTH)
        yield Row(name, bytes((base + 3,)), BOTH, sized=True)
        yield Row(name, bytes((base + 4,)), imm="b")
        yield Row(name, bytes((base + 5,)), imm="z", sized=True)
        yield Row(name, b"\x80", number, imm="b", lock=lock)
        yield Row(name, b"\x81", number, imm="z", sized=True, lock=lock)
        yield Row(name, b"\x82", number, imm="b", lock=lock, bits=OUTSIDE_64)
        yield Row(name, b"\x83", number, imm="b", sized=True, lock=lock)
    for number, name in enumerate(("test", "test1", "not", "neg", "mul", "imul", "div", "idiv")):
        imm, lock, setup = ("b", "z") if number < 2 else ("", ""), name in ("not", "neg"), "div" if number > 5 else ""
        yield Row(name, b"\xf6", number, imm=imm[0], lock=lock, setup=setup)
        yield Row(name, b"\xf7", number, imm=imm[1], sized=True, lock=lock, setup=setup)
    for number, name in enumerate(("inc", "dec")):
        yield Row(name, b"\xfe", number, lock=True)
        yield Row(name, b"\xff", number, sized=True, lock=True)
    for reg in range(8):
        yield Row("inc", bytes((0x40 + reg,)), sized=True, bits=OUTSIDE_64)
        yield Row("dec", bytes((0x48 + reg,)), sized=True, bits=OUTSIDE_64)
    yield _row("test", "84", BOTH)
    yield _row("test", "85", BOTH, sized=True)
    yield _row("test", "a8", imm="b")
    yield _row("test", "a9", imm="z", sized=True)
    yield _row("imul", "69", BOTH, imm="z", sized=True)
    yield _row("imul", "6b", BOTH, imm="b", sized=True)
    yield _row("imul", "0faf", BOTH, sized=True)
    for name, text in (("daa", "27"), ("das", "2f"), ("aaa", "37"), ("aas", "3f")):
        yield _row(name, text, bits=OUTSIDE_64, setup="bcd")
    yield _row("aam", "d4", imm="b", bits=OUTSIDE_64)
    yield _row("aad", "d5", imm="b", bits=OUTSIDE_64)
    for number, name in enumerate(("rol", "ror", "rcl", "rcr", "shl", "shr", "sal", "sar")):
        for low, sized in ((0, False), (1, True)):
            yield Row(name, bytes((0xC0 + low,)), number, imm="b", sized=sized)
            yield Row(name, bytes((0xD0 + low,)), number, sized=sized)
            yield Row(name, bytes((0xD2 + low,)), number, sized=sized, setup="count")
    for name, code in (("shld", 0xA4), ("shrd", 0xAC)):
        yield Row(name, bytes((0x0F, code)), BOTH, imm="b", sized=True)
        yield Row(name, bytes((0x0F, code + 1)), BOTH, sized=True, setup="count")


def _moves() -> Iterator[Row]:
    for code, sized in ((0x88, False), (0x89, True), (0x8A, False), (0x8B, True)):
        yield Row("mov", bytes((code,)), BOTH, sized=sized)
    yield _row("mov from segment", "8c", BOTH, sized=True, setup="segment")
    yield _row("lea", "8d", BOTH, rm=MEMORY, sized=True)
    yield _row("xchg", "86", BOTH, lock=True)
    yield _row("xchg", "87", BOTH, sized=True, lock=True)
    for reg in range(8):
        yield Row("xchg" if reg else "nop", bytes((0x90 + reg,)), sized=True)
        yield Row("mov", bytes((0xB0 + reg,)), imm="b")
        yield Row("mov", bytes((0xB8 + reg,)), imm="v", sized=True)
        yield Row("bswap", bytes((0x0F, 0xC8 + reg)), sized=True, setup="bswap")
    yield _row("pause", "90", prefix=0xF3)
    yield _row("cbw", "98", sized=True)
    yield _row("cwd", "99", sized=True)
    for number in range(4):
        yield Row("mov", bytes((0xA0 + number,)), imm="o", sized=bool(number & 1))
    yield _row("mov", "c6", 0, imm="b")
    yield _row("mov", "c7", 0, imm="z", sized=True)
    yield _row("movsxd", "63", BOTH, sized=True, bits=ONLY_64)
    for name, codes in (("movzx", b"\xb6\xb7"), ("movsx", b"\xbe\xbf")):
        for low in codes:
            yield Row(name, bytes((0x0F, low)), BOTH, sized=True)
    yield _row("movnti", "0fc3", BOTH, rm=MEMORY, wide=True)
    yield _row("movbe", "0f38f0", BOTH, rm=MEMORY, sized=True)
    yield _row("movbe", "0f38f1", BOTH, rm=MEMORY, sized=True)
    for condition in range(16):
        yield Row("cmovcc", bytes((0x0F, 0x40 + condition)), BOTH, sized=True)
        yield Row("setcc", bytes((0x0F, 0x90 + condition)), BOTH)
    yield _row("xlat", "d7", setup="xlat")
    yield _row("bound", "62", BOTH, rm=MEMORY, sized=True, bits=OUTSIDE_64)
    for text in ("9e", "9f", "f5", "f8", "f9", "fc", "fd"):
        yield _row("flag operation", text)
    yield _row("prefetchw", "0f0d", 1, rm=MEMORY)
    for number in range(4):
        yield _row("prefetch", "0f18", number, rm=MEMORY)
    for text in ("0f19", "0f1a", "0f1b", "0f1c", "0f1d", "0f1e", "0f1f"):
        yield _row("reserved nop", text, BOTH, sized=True, setup="nop")
    yield _row("endbr64", "0f1e", FIXED + 0xFA, prefix=0xF3)


def _bits() -> Iterator[Row]:
    for code, lock in ((0xA3, False), (0xAB, True), (0xB3, True), (0xBB, True)):
        yield Row("bit test", bytes((0x0F, code)), BOTH, sized=True, lock=lock, setup="bit string")
    for number in range(4, 8):
        yield _row("bit test", "0fba", number, imm="b", sized=True, lock=number > 4)
    for text, name in (("0fbc", "bsf"), ("0fbd", "bsr")):
        yield _row(name, text, BOTH, sized=True, setup="sparse")
    for text, name in (("0fb8", "popcnt"), ("0fbc", "tzcnt"), ("0fbd", "lzcnt")):
        yield _row(name, text, BOTH, prefix=0xF3, sized=True, setup="sparse")
    yield _row("cmpxchg", "0fb0", BOTH, lock=True, setup="cmpxchg")
    yield _row("cmpxchg", "0fb1", BOTH, sized=True, lock=True, setup="cmpxchg")
    yield _row("cmpxchg8b", "0fc7", 1, rm=MEMORY, wide=True, lock=True, setup="cmpxchg8b")
    yield _row("xadd", "0fc0", BOTH, lock=True)
    yield _row("xadd", "0fc1", BOTH, sized=True, lock=True)
    yield _row("adcx", "0f38f6", BOTH, prefix=0x66, wide=True)
    yield _row("adox", "0f38f6", BOTH, prefix=0xF3, wide=True)
    yield _row("crc32", "0f38f0", BOTH, prefix=0xF2, wide=True)
    yield _row("crc32", "0f38f1", BOTH, prefix=0xF2, sized=True)
    for name, text, modrm, pp, imm in (
        ("andn", "0f38f2", BOTH, 0, ""), ("blsr", "0f38f3", 1, 0, ""), ("blsmsk", "0f38f3", 2, 0, ""),
        ("blsi", "0f38f3", 3, 0, ""), ("bzhi", "0f38f5", BOTH, 0, ""), ("pext", "0f38f5", BOTH, 2, ""),
        ("pdep", "0f38f5", BOTH, 3, ""), ("mulx", "0f38f6", BOTH, 3, ""), ("bextr", "0f38f7", BOTH, 0, ""),
        ("shlx", "0f38f7", BOTH, 1, ""), ("sarx", "0f38f7", BOTH, 2, ""), ("shrx", "0f38f7", BOTH, 3, ""),
        ("rorx", "0f3af0", BOTH, 3, "b"),
    ):  # fmt: skip
        yield _row(name, text, modrm, vex=pp, imm=imm, setup="fields")


def _strings() -> Iterator[Row]:
    for code, name in ((0xA4, "movs"), (0xA6, "cmps"), (0xAA, "stos"), (0xAC, "lods"), (0xAE, "scas")):
        for low in range(2):
            for prefix in (0, 0xF3, 0xF2):
                yield Row(name, bytes((code + low,)), prefix=prefix, sized=bool(low), setup="string")


def _stack_and_branches() -> Iterator[Row]:
    for reg in range(8):
        yield Row("push", bytes((0x50 + reg,)), sized=True, setup="stack")
        yield Row("pop", bytes((0x58 + reg,)), sized=True, setup="stack")
    yield _row("pusha", "60", sized=True, bits=OUTSIDE_64, setup="stack")
    yield _row("popa", "61", sized=True, bits=OUTSIDE_64, setup="stack")
    yield _row("push", "68", imm="z", sized=True, setup="stack")
    yield _row("push", "6a", imm="b", sized=True, setup="stack")
    yield _row("pop", "8f", 0, sized=True, setup="stack")
    yield _row("push", "ff", 6, sized=True, setup="stack")
    yield _row("pushf", "9c", sized=True, setup="stack")
    yield _row("popf", "9d", sized=True, setup="stack")
    for text in ("06", "0e", "16", "1e"):
        yield _row("push segment", text, sized=True, bits=OUTSIDE_64, setup="stack")
    for text in ("0fa0", "0fa8"):
        yield _row("push segment", text, sized=True, setup="stack")
    yield _row("enter", "c8", imm="wb", sized=True, setup="enter")
    yield _row("leave", "c9", sized=True, setup="leave")
    for condition in range(16):
        yield Row("jcc", bytes((0x70 + condition,)), imm="s", setup="branch")
        yield Row("jcc", bytes((0x0F, 0x80 + condition)), imm="t", sized=True, setup="branch")
    for text in ("e0", "e1", "e2", "e3"):
        yield _row("loop", text, imm="s", setup="loop")
    yield _row("jmp", "eb", imm="s", setup="branch")
    yield _row("jmp", "e9", imm="t", sized=True, setup="branch")
    yield _row("call", "e8", imm="t", sized=True, setup="branch stack")
    yield _row("call", "ff", 2, sized=True, setup="target stack")
    yield _row("jmp", "ff", 4, sized=True, setup="target")
    yield _row("ret", "c3", sized=True, setup="return")
    yield _row("ret", "c2", imm="w", sized=True, setup="return")


_X87_UNDEFINED_MEMORY: Final = {(0xD9, 1), (0xDB, 4), (0xDB, 6), (0xDD, 5)}
# Register forms that raise #UD (SDM vol. 2, tables, but for aliases that processors do execute).
_X87_UNDEFINED: Final = {
    0xD9: (*range(0xD1, 0xD8), 0xE2, 0xE3, 0xE6, 0xE7, 0xEF), 0xDA: (*range(0xE0, 0xE9), *range(0xEA, 0x100)),
    0xDB: (*range(0xE5, 0xE8), *range(0xF8, 0x100)), 0xDD: tuple(range(0xF0, 0x100)),
    0xDE: (0xD8, *range(0xDA, 0xE0)), 0xDF: (*range(0xE1, 0xE8), *range(0xF8, 0x100)),
}  # fmt: skip


def _x87() -> Iterator[Row]:
    """Every memory form and every register form, the undocumented aliases and the undefined ones included."""
    yield _row("wait", "9b", values="x87")
    for code in range(0xD8, 0xE0):
        for number in range(8):
            name = "x87 undefined" if (code, number) in _X87_UNDEFINED_MEMORY else f"x87 {code:02x}/{number}"
            yield Row(name, bytes((code,)), number, rm=MEMORY, sized=True, values="x87")
        for modrm in range(0xC0, 0x100):
            undefined = modrm in _X87_UNDEFINED.get(code, ())
            name = "x87 undefined" if undefined else f"x87 {code:02x} {modrm & 0xF8:02x}"
            yield Row(name, bytes((code,)), FIXED + modrm, values="x87")


# Opcodes behind 0F by the mandatory prefixes that make instructions of them, with the kind of their operands.
_P, _66, _F3, _F2 = 0, 0x66, 0xF3, 0xF2
_SINGLES: Final = ("f32", "f64", "f32", "f64")  # by prefix: none, 66, F3, F2
_KIND: Final = {_P: "f32", _66: "f64", _F3: "f32", _F2: "f64"}


def _sse_floats() -> Iterator[Row]:
    every, pair = (_P, _66, _F3, _F2), (_P, _66)
    plain: tuple[tuple[int, tuple[int, ...], str], ...] = (
        (0x10, every, ANY), (0x11, every, ANY), (0x12, (_F3, _F2), ANY), (0x12, (_P,), ANY), (0x12, (_66,), MEMORY),
        (0x13, pair, MEMORY), (0x14, pair, ANY), (0x15, pair, ANY), (0x16, (_P, _F3), ANY), (0x16, (_66,), MEMORY),
        (0x17, pair, MEMORY), (0x28, pair, ANY), (0x29, pair, ANY), (0x2B, pair, MEMORY), (0x2E, pair, ANY),
        (0x2F, pair, ANY), (0x50, pair, REGISTER), (0x51, every, ANY), (0x52, (_P, _F3), ANY), (0x53, (_P, _F3), ANY),
        (0x54, pair, ANY), (0x55, pair, ANY), (0x56, pair, ANY), (0x57, pair, ANY), (0x58, every, ANY),
        (0x59, every, ANY), (0x5A, every, ANY), (0x5B, (_P, _66, _F3), ANY), (0x5C, every, ANY), (0x5D, every, ANY),
        (0x5E, every, ANY), (0x5F, every, ANY), (0x7C, (_66, _F2), ANY), (0x7D, (_66, _F2), ANY),
        (0xD0, (_66, _F2), ANY), (0xE6, (_66, _F3, _F2), ANY),
    )  # fmt: skip
    for code, prefixes, rm in plain:
        for prefix in prefixes:
            yield Row(f"sse {code:02x}", bytes((0x0F, code)), BOTH, prefix, rm, values=_KIND[prefix])
    for code in (0x2A, 0x2C, 0x2D):
        for prefix in every:
            yield Row(f"sse {code:02x}", bytes((0x0F, code)), BOTH, prefix, wide=True, values=_KIND[prefix])
    for prefix in every:
        yield Row("sse c2", b"\x0f\xc2", BOTH, prefix, imm="b", setup="compare", values=_KIND[prefix])
    for prefix in pair:
        yield Row("sse c6", b"\x0f\xc6", BOTH, prefix, imm="b", values=_KIND[prefix])
    for code, kind in ((0x08, "f32"), (0x09, "f64"), (0x0A, "f32"), (0x0B, "f64"), (0x40, "f32"), (0x41, "f64")):
        yield Row(f"sse 3a{code:02x}", bytes((0x0F, 0x3A, code)), BOTH, _66, imm="b", values=kind)
    yield _row("ldmxcsr", "0fae", 2, rm=MEMORY, setup="mxcsr", values="f32")
    yield _row("stmxcsr", "0fae", 3, rm=MEMORY, values="f32")
    yield _row("fxsave", "0fae", 0, rm=MEMORY, wide=True, setup="fxsave", values="x87")
    yield _row("fxrstor", "0fae", 1, rm=MEMORY, wide=True, setup="fxrstor", values="x87")
    for number in (5, 6, 7):
        yield _row("fence", "0fae", FIXED + 0xC0 + number * 8)
    yield _row("clflush", "0fae", 7, rm=MEMORY)


def _sse_integers() -> Iterator[Row]:
    pair = (_P, _66)

    def rows(codes: Iterator[int] | tuple[int, ...], space: bytes, prefixes: tuple[int, ...], rm: str = ANY,
             imm: str = "", wide: bool = False) -> Iterator[Row]:  # fmt: skip
        for code in codes:
            for prefix in prefixes:
                kind = "mmx" if prefix == _P else "int"
                label = f"{'mmx' if prefix == _P else 'sse'} {space[1:].hex()}{code:02x}"
                yield Row(label, space + bytes((code,)), BOTH, prefix, rm, imm, wide=wide, values=kind)

    two, three8, three_a = b"\x0f", b"\x0f\x38", b"\x0f\x3a"
    yield from rows((*range(0x60, 0x6C), 0x6F, *range(0x74, 0x77), 0x7F), two, pair)
    yield from rows((0x6C, 0x6D), two, (_66,))
    yield from rows((0x6F, 0x7F, 0x7E), two, (_F3,))
    yield from rows((0x6E, 0x7E), two, pair, wide=True)
    yield from rows((0x70,), two, (_P, _66, _F3, _F2), imm="b")
    for code, numbers in ((0x71, (2, 4, 6)), (0x72, (2, 4, 6)), (0x73, (2, 6))):
        for number in numbers:
            for prefix in pair:
                kind = "mmx" if prefix == _P else "int"
                yield Row(f"{kind} {code:x}", bytes((0x0F, code)), number, prefix, REGISTER, "b", values=kind)
    for number in (3, 7):
        yield Row("int 73", b"\x0f\x73", number, _66, REGISTER, "b", values="int")
    yield _row("emms", "0f77", values="mmx")
    yield from rows((0xC4,), two, pair, imm="b")
    yield from rows((0xC5,), two, pair, REGISTER, "b")
    yield from rows(
        (*range(0xD1, 0xD6), *range(0xD8, 0xE6), *range(0xE8, 0xF0), *range(0xF1, 0xF7), *range(0xF8, 0xFF)), two, pair
    )
    yield from rows((0xD6,), two, (_66,))
    yield from rows((0xD6,), two, (_F3, _F2), REGISTER)
    yield from rows((0xD7,), two, pair, REGISTER)
    yield from rows((0xE7,), two, pair, MEMORY)
    yield from rows((0xF0,), two, (_F2,), MEMORY)
    for prefix, kind in ((_P, "mmx"), (_66, "int")):
        yield Row(f"{kind} f7", b"\x0f\xf7", BOTH, prefix, REGISTER, setup="maskmov", values=kind)
    yield from rows((*range(0x0C), 0x1C, 0x1D, 0x1E), three8, pair)
    yield from rows((0x10, 0x14, 0x15, 0x17, *range(0x20, 0x26), 0x28, 0x29, 0x2B, *range(0x30, 0x36),
                     *range(0x37, 0x42)), three8, (_66,))  # fmt: skip
    yield from rows((0x2A,), three8, (_66,), MEMORY)
    yield from rows((0x0F,), three_a, pair, imm="b")
    yield from rows((0x0C, 0x0D, 0x0E, 0x14, 0x15, 0x17, 0x20, 0x21, 0x42), three_a, (_66,), imm="b")
    yield from rows((0x16, 0x22), three_a, (_66,), imm="b", wide=True)
    for code in range(0x60, 0x64):
        yield Row(f"sse 3a{code:02x}", bytes((0x0F, 0x3A, code)), BOTH, _66, imm="b", wide=True, setup="text",
                  values="text")  # fmt: skip


def _undefined() -> Iterator[Row]:
    """Encodings that raise #UD on every processor: UD0 to UD2, holes of groups, register forms that need memory."""
    for text, modrm in (("0f0b", NONE), ("0fff", BOTH), ("0fb9", BOTH), ("fe", 2), ("fe", 7), ("ff", 7), ("8f", 1),
                        ("c6", 1), ("c7", 3), ("0fba", 0), ("0fba", 3)):  # fmt: skip
        imm = "b" if text in ("c6", "0fba") else "z" if text == "c7" else ""
        yield _row("undefined", text, modrm, imm=imm)
    yield _row("undefined", "8d", BOTH, rm=REGISTER)
    yield _row("undefined", "0fc7", 1, rm=REGISTER)
    yield _row("undefined", "0f13", BOTH, rm=REGISTER)
    yield _row("undefined", "0f38f1", BOTH, rm=REGISTER)
    yield _row("undefined", "0fae", 5, rm=REGISTER, prefix=0xF2)
    for code in (0x06, 0x07, 0x0E, 0x16, 0x17, 0x1E, 0x1F, 0x27, 0x2F, 0x37, 0x3F, 0x60, 0x61, 0x82, 0x9A, 0xD4, 0xD5,
                 0xEA):  # fmt: skip
        yield Row("undefined", bytes((code,)), bits=ONLY_64)


ROWS: Final[tuple[Row, ...]] = (
    *_arithmetic(), *_moves(), *_bits(), *_strings(), *_stack_and_branches(), *_x87(), *_sse_floats(),
    *_sse_integers(), *_undefined(),
)  # fmt: skip
