"""Bit tests, scans, counts and fields: BT BTS BTR BTC BSF BSR TZCNT LZCNT POPCNT, BMI1, BMI2, ADCX ADOX and CRC32.

Flags that the manual leaves undefined are what Intel processors were measured to give: the bit tests change only CF,
the counts and BMI clear them, BSF and BSR clear them but for PF, the parity of the index (of zero where there is none).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from isa.x86.decode import IMM, MEM, Insn
from isa.x86.flags import set_arith, set_cf, szp
from isa.x86.operands import MASKS, Binder, Op, Read, offset, reader, rmw, writer
from isa.x86.state import CF, OF, PF, SF, ZF
from isa.x86.vex import PP_F2, PP_F3, PP_NONE, VEX, guarded, pp, undefined

if TYPE_CHECKING:
    from isa.x86.cpu import Cpu

# -- BT, BTS, BTR, BTC -----------------------------------------------------------------------------------------------

_TEST, _SET, _RESET, _COMPLEMENT = 4, 5, 6, 7  # ModRM.reg of 0F BA; the other opcodes have it in their bits 3 to 5
_CHANGE: Final[dict[int, Callable[[int, int], int]]] = {
    _SET: lambda value, bit: value | bit,
    _RESET: lambda value, bit: value & ~bit,
    _COMPLEMENT: lambda value, bit: value ^ bit,
}


def _bit_test(insn: Insn, pc: int) -> Op:
    """0F BA (by an immediate), 0F A3, AB, B3, BB (by a register)."""
    target, index = insn.operands
    operation = insn.reg_field if insn.opcode == 0x0FBA else insn.opcode >> 3 & 7
    if target.kind == MEM and index.kind != IMM:
        return _bit_string(insn, pc, operation)
    read_index, wrap = reader(insn, index, pc), target.size * 8 - 1
    if operation == _TEST:
        read = reader(insn, target, pc)
        return lambda cpu: set_cf(cpu, read(cpu) >> (read_index(cpu) & wrap) & 1)
    read, write = rmw(insn, target, pc)
    change = _CHANGE[operation]

    def modify(cpu: Cpu) -> None:
        value, n = read(cpu), read_index(cpu) & wrap
        write(cpu, change(value, 1 << n))
        set_cf(cpu, value >> n & 1)

    return modify


def _bit_string(insn: Insn, pc: int, operation: int) -> Op:
    """A register counts bits from the memory operand in either direction (SDM vol. 1, 3.7.5 and vol. 2, BT)."""
    target, index = insn.operands
    size, sign, seg, wrap = target.size, 1 << target.size * 8 - 1, target.seg, MASKS[insn.adsize]
    address, read_index, change = offset(insn, target, pc), reader(insn, index, pc), _CHANGE.get(operation)
    shift = (size * 8).bit_length() - 1

    def test(cpu: Cpu) -> None:
        n = (read_index(cpu) ^ sign) - sign
        at, bit = address(cpu) + (n >> shift) * size & wrap, n & size * 8 - 1
        if change is None:
            value = cpu.load(seg, at, size)
        else:
            value = cpu.load_rmw(seg, at, size)
            cpu.store(seg, at, size, change(value, 1 << bit))
        set_cf(cpu, value >> bit & 1)

    return test


# -- scans and counts ------------------------------------------------------------------------------------------------


def _lowest(value: int, bits: int) -> int:
    return (value & -value).bit_length() - 1 if value else bits


def _highest(value: int, bits: int) -> int:
    return value.bit_length() - 1


def _leading(value: int, bits: int) -> int:
    return bits - value.bit_length()


def _source(insn: Insn, pc: int) -> Read:
    """The second operand, as wide as the first (capstone gives BSR with 66 and REX.W a memory operand of 16 bits)."""
    target, source = insn.operands
    return reader(insn, dataclasses.replace(source, size=target.size), pc)


def _counted(insn: Insn, pc: int, count: Callable[[int, int], int]) -> Op:
    """TZCNT and LZCNT: CF tells that there was no bit, ZF that the count is zero."""
    target = insn.operands[0]
    read, write, bits = _source(insn, pc), writer(insn, target, pc), target.size * 8

    def counted(cpu: Cpu) -> None:
        value = read(cpu)
        result = count(value, bits)
        write(cpu, result)
        set_arith(cpu, (0 if value else CF) | (0 if result else ZF))

    return counted


def _scanned(insn: Insn, pc: int, find: Callable[[int, int], int]) -> Op:
    """BSF and BSR: without a bit the target stays, all 64 bits of it, and ZF is set."""
    target = insn.operands[0]
    read, write, bits = _source(insn, pc), writer(insn, target, pc), target.size * 8

    def scan(cpu: Cpu) -> None:
        value = read(cpu)
        if not value:
            set_arith(cpu, ZF | PF)
            return
        index = find(value, bits)
        write(cpu, index)
        set_arith(cpu, szp(index, 1) & PF)

    return scan


def _forward(insn: Insn, pc: int) -> Op:
    return _counted(insn, pc, _lowest) if insn.rep == 0xF3 else _scanned(insn, pc, _lowest)


def _backward(insn: Insn, pc: int) -> Op:
    return _counted(insn, pc, _leading) if insn.rep == 0xF3 else _scanned(insn, pc, _highest)


def _popcnt(insn: Insn, pc: int) -> Op:
    if insn.rep != 0xF3:
        return undefined
    read, write = _source(insn, pc), writer(insn, insn.operands[0], pc)

    def popcnt(cpu: Cpu) -> None:
        count = read(cpu).bit_count()
        write(cpu, count)
        set_arith(cpu, 0 if count else ZF)

    return popcnt


# -- BMI1 and BMI2 ---------------------------------------------------------------------------------------------------


def _andn(insn: Insn, pc: int) -> Op:
    if pp(insn) != PP_NONE:
        return undefined
    target, inverted, source = insn.operands
    size, n = target.size, target.reg
    read_inverted, read = reader(insn, inverted, pc), reader(insn, source, pc)

    def andn(cpu: Cpu) -> None:
        result = ~read_inverted(cpu) & read(cpu)
        cpu.regs[n] = result
        set_arith(cpu, szp(result, size) & (SF | ZF))

    return guarded(insn, andn)


# ModRM.reg of VEX 0F 38 F3 -> the result, and whether CF tells that the source was not zero (else that it was).
_LOWEST: Final[dict[int, tuple[Callable[[int], int], bool]]] = {
    1: (lambda value: value & value - 1, False),  # BLSR
    2: (lambda value: value ^ value - 1, False),  # BLSMSK
    3: (lambda value: value & -value, True),  # BLSI
}


def _lowest_set(insn: Insn, pc: int) -> Op:
    found = _LOWEST.get(insn.reg_field)
    if found is None or pp(insn) != PP_NONE:
        return undefined
    compute, carry_if_set = found
    target, source = insn.operands
    size, mask, n, read = target.size, MASKS[target.size], target.reg, reader(insn, source, pc)

    def blend(cpu: Cpu) -> None:
        value = read(cpu)
        result = compute(value) & mask
        cpu.regs[n] = result
        set_arith(cpu, szp(result, size) & (SF | ZF) | (CF if bool(value) is carry_if_set else 0))

    return guarded(insn, blend)


def bextr(insn: Insn, pc: int) -> Op:
    """BEXTR: a field whose start is in bits 0 to 7 of the last operand and whose length in bits 8 to 15."""
    target, source, control = insn.operands
    n, m, read = target.reg, control.reg, reader(insn, source, pc)

    def extract(cpu: Cpu) -> None:
        fields = cpu.regs[m]
        result = read(cpu) >> (fields & 0xFF) & (1 << (fields >> 8 & 0xFF)) - 1
        cpu.regs[n] = result
        set_arith(cpu, 0 if result else ZF)

    return guarded(insn, extract)


def _deposit(value: int, mask: int) -> int:
    result = 0
    while mask and value:
        lowest = mask & -mask
        if value & 1:
            result |= lowest
        value >>= 1
        mask ^= lowest
    return result


def _gather(value: int, mask: int) -> int:
    result, at = 0, 0
    while mask:
        lowest = mask & -mask
        if value & lowest:
            result |= 1 << at
        at += 1
        mask ^= lowest
    return result


def _bit_fields(insn: Insn, pc: int) -> Op:
    """BZHI, PDEP (F2) and PEXT (F3)."""
    prefix = pp(insn)
    target, first, second = insn.operands
    n, read, read_second = target.reg, reader(insn, first, pc), reader(insn, second, pc)
    if prefix in (PP_F2, PP_F3):
        compute = _deposit if prefix == PP_F2 else _gather

        def scatter(cpu: Cpu) -> None:
            cpu.regs[n] = compute(read(cpu), read_second(cpu))

        return guarded(insn, scatter)
    if prefix != PP_NONE:
        return undefined
    size, bits = target.size, target.size * 8

    def bzhi(cpu: Cpu) -> None:
        value, index = read(cpu), read_second(cpu) & 0xFF
        result = value & (1 << index) - 1
        cpu.regs[n] = result
        set_arith(cpu, szp(result, size) & (SF | ZF) | (CF if index >= bits else 0))

    return guarded(insn, bzhi)


# -- ADX and CRC32 ---------------------------------------------------------------------------------------------------


def _add_with_one_flag(insn: Insn, pc: int) -> Op:
    """ADCX (66) adds with CF, ADOX (F3) with OF; no other flag changes."""
    flag = OF if insn.rep == 0xF3 else CF if 0x66 in insn.raw[: insn.opcode_at] and not insn.rep else 0
    if not flag:
        return undefined
    target, source = insn.operands
    mask, bits, n = MASKS[target.size], target.size * 8, target.reg
    read = reader(insn, source, pc)

    def add(cpu: Cpu) -> None:
        total = (cpu.regs[n] & mask) + read(cpu) + (1 if cpu.rflags & flag else 0)
        cpu.regs[n] = total & mask
        set_arith(cpu, flag if total >> bits else 0, flag)

    return add


def _crc_table() -> list[int]:
    """The remainders of single bytes by the Castagnoli polynomial 11EDC6F41h, bits reflected (SDM vol. 2, CRC32)."""
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F6_3B78 if byte & 1 else 0)
        table.append(byte)
    return table


_CRC: Final = _crc_table()


def crc32(insn: Insn, pc: int) -> Op:
    """CRC32: F2 0F 38 F0 and F1, which without F2 are MOVBE."""
    target, source = insn.operands
    n, size, read = target.reg, source.size, reader(insn, source, pc)

    def accumulate(cpu: Cpu) -> None:
        crc = cpu.regs[n] & 0xFFFF_FFFF
        for byte in read(cpu).to_bytes(size, "little"):
            crc = _CRC[(crc ^ byte) & 0xFF] ^ crc >> 8
        cpu.regs[n] = crc

    return accumulate


BINDERS: Final[dict[int, Binder]] = {
    **dict.fromkeys((0x0FA3, 0x0FAB, 0x0FB3, 0x0FBA, 0x0FBB), _bit_test),
    0x0FB8: _popcnt,
    0x0FBC: _forward,
    0x0FBD: _backward,
    0x0F38F6: _add_with_one_flag,
    VEX | 0x0F38F2: _andn,
    VEX | 0x0F38F3: _lowest_set,
    VEX | 0x0F38F5: _bit_fields,
}
