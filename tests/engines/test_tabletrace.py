"""Write traces on page tables that stay the same: what they must see, and when they come and go."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from emu.exits import Halt
from emu.tabletrace import PATIENCE
from tests.engines.conftest import ORG, World

Make = Callable[..., World]

DIRECTORY, TABLE, SECOND = 0x200000, 0x201000, 0x202000
DATA, OTHER = 0x300000, 0x301000  # pages of different content
ENTRY = TABLE + (DATA >> 12) * 4
CODE = TABLE + 0xE00  # in a part of the table that is not used: the entries for 380000h and up
P, W, U, A, D = 1, 2, 4, 0x20, 0x40
FLUSH = "mov eax, cr3; mov cr3, eax"
READ = f"mov edx, dword ptr [{DATA}]"


@pytest.fixture
def paged(make: Make) -> Callable[[str], World]:
    """A world with 32-bit paging, which maps its 4 MiB to themselves."""

    def factory(kind: str = "translate") -> World:
        world = make(kind)
        memory = world.memory
        memory.write(DIRECTORY, 4, TABLE | P | W | U)
        for number in range(0x380):
            memory.write(TABLE + number * 4, 4, number << 12 | P | W | U)
        memory.write(DATA, 4, 0x11111111)
        memory.write(OTHER, 4, 0x22222222)
        perform(world, f"mov eax, {DIRECTORY}; mov cr3, eax; mov eax, cr0; or eax, 0x80010000; mov cr0, eax; {READ}")
        return world

    return factory


def perform(world: World, text: str) -> int:
    """Have the guest execute `text`; returns its EDX."""
    world.put(f"{text}; hlt")
    world.cpu.rip, world.cpu.halted = ORG, False
    assert world.run() == Halt(False)
    return world.cpu.regs[2]


def flush(world: World, times: int = PATIENCE) -> None:
    """Have the guest flush all translations so often, with its page in use each time."""
    perform(world, f"mov ecx, {times}; again: {READ}; {FLUSH}; dec ecx; jnz again")


def traced(world: World, table: int = TABLE) -> bool:
    return world.memory.watched(table)


def memory_exits(world: World) -> int:
    return world.engine.counters().exits["memory"]


def test_a_table_is_traced_once_it_stayed_the_same_for_long(paged: Callable[..., World]) -> None:
    world = paged()
    flush(world, PATIENCE // 2)
    assert not traced(world)
    flush(world)
    assert traced(world)


@pytest.mark.parametrize("kind", ["interpret", "translate"])
@pytest.mark.parametrize("size", ["byte", "word", "dword"])
def test_a_change_by_the_guest_is_seen_at_the_next_flush(paged: Callable[..., World], kind: str, size: str) -> None:
    world = paged(kind)
    flush(world, PATIENCE + 1)
    at, value = (ENTRY + 1, OTHER >> 8 & 0xF0) if size == "byte" else (ENTRY, OTHER & 0xFFFF | P | W | U)
    if size == "dword":
        value |= OTHER
    assert perform(world, f"mov {size} ptr [{at}], {value}; {FLUSH}; {READ}") == 0x22222222
    assert not traced(world)


def test_the_guest_changes_it_without_more_exits_from_then_on(paged: Callable[..., World]) -> None:
    world = paged()
    flush(world, PATIENCE + 1)
    before = memory_exits(world)
    change = f"mov dword ptr [{ENTRY}], {{}}; {FLUSH}; {READ}"
    assert perform(world, change.format(OTHER | P | W | U)) == 0x22222222
    assert memory_exits(world) == before + 1
    assert perform(world, change.format(DATA | P | W | U)) == 0x11111111
    assert perform(world, change.format(OTHER | P | W | U)) == 0x22222222
    assert memory_exits(world) == before + 1


@pytest.mark.parametrize("kind", ["interpret", "translate"])
def test_a_change_by_a_device_is_seen(paged: Callable[..., World], kind: str) -> None:
    world = paged(kind)
    flush(world, PATIENCE + 1)
    page = bytearray(world.memory.read_bytes(TABLE, 0x1000))
    page[ENTRY - TABLE : ENTRY - TABLE + 4] = (OTHER | P | W | U).to_bytes(4, "little")
    world.memory.write_bytes(TABLE, page)
    assert not traced(world)
    assert perform(world, f"{FLUSH}; {READ}") == 0x22222222


@pytest.mark.parametrize("kind", ["interpret", "translate"])
def test_a_change_is_seen_by_invlpg(paged: Callable[..., World], kind: str) -> None:
    world = paged(kind)
    flush(world, PATIENCE + 1)
    change = f"mov dword ptr [{ENTRY}], {OTHER | P | W | U}; invlpg [{DATA}]; {READ}"
    assert perform(world, change) == 0x22222222


def test_bits_that_the_cpu_sets_leave_the_trace(paged: Callable[..., World]) -> None:
    world = paged()
    flush(world, PATIENCE + 1)
    untouched = 0x340000
    entry = TABLE + (untouched >> 12) * 4
    assert not world.memory.read(entry, 4) & (A | D)
    perform(world, f"mov edx, dword ptr [{untouched}]")
    assert world.memory.read(entry, 4) & (A | D) == A
    assert traced(world)
    perform(world, f"mov dword ptr [{untouched}], edx")
    assert world.memory.read(entry, 4) & (A | D) == A | D
    assert traced(world)
    flush(world, 1)
    assert traced(world)


@pytest.mark.parametrize("kind", ["interpret", "translate"])
def test_the_cpu_sets_bits_again_that_the_guest_takes_back(paged: Callable[..., World], kind: str) -> None:
    world = paged(kind)
    perform(world, f"mov dword ptr [{DATA}], 0x11111111")
    flush(world, PATIENCE + 1)
    for _ in range(2):
        perform(world, f"and dword ptr [{ENTRY}], {~(A | D) & 0xFFFFFFFF}; {FLUSH}")
        assert not world.memory.read(ENTRY, 4) & (A | D)
        assert not traced(world)
        perform(world, f"mov dword ptr [{DATA}], 0x11111111")
        assert world.memory.read(ENTRY, 4) & (A | D) == A | D
        flush(world, 4 * PATIENCE)


def test_each_end_of_a_trace_puts_the_next_one_off(paged: Callable[..., World]) -> None:
    world = paged()
    flush(world, PATIENCE + 1)
    for wait in (2 * PATIENCE, 4 * PATIENCE):
        assert traced(world)
        perform(world, f"xor dword ptr [{ENTRY}], 0x1000; {FLUSH}")
        flush(world, wait - 2)
        assert not traced(world)
        flush(world, 4)
    assert traced(world)


def test_the_trace_goes_with_the_table(paged: Callable[..., World]) -> None:
    world = paged()
    world.memory.write_bytes(SECOND, world.memory.read_bytes(TABLE, 0x1000))
    world.memory.write(DIRECTORY + 4, 4, SECOND | P | W | U)
    use = f"mov edx, dword ptr [0x400000+{DATA}]"
    perform(world, f"mov ecx, {PATIENCE + 2}; again: {use}; {FLUSH}; dec ecx; jnz again")
    assert traced(world, SECOND)
    perform(world, f"mov dword ptr [{DIRECTORY + 4}], 0; {FLUSH}")
    assert not traced(world, SECOND)
    before = memory_exits(world)
    perform(world, f"mov dword ptr [{SECOND}], 5; mov dword ptr [{SECOND + 0x800}], 6")
    assert memory_exits(world) == before


@pytest.mark.parametrize("kind", ["interpret", "translate"])
def test_a_table_that_serves_as_data_may_be_a_table_again(paged: Callable[..., World], kind: str) -> None:
    world = paged(kind)
    table = world.memory.read_bytes(TABLE, 0x1000)
    flush(world, PATIENCE + 1)
    world.memory.write_bytes(SECOND, table)
    perform(world, f"mov dword ptr [{DIRECTORY}], {SECOND | P | W | U}; {FLUSH}; {READ}")
    perform(world, f"mov edi, {TABLE}; mov ecx, 0x400; mov eax, 0x55555555; cld; rep stosd; {FLUSH}")
    flush(world, PATIENCE + 1)
    world.memory.write_bytes(TABLE, table)
    world.memory.write(ENTRY, 4, OTHER | P | W | U)
    assert perform(world, f"mov dword ptr [{DIRECTORY}], {TABLE | P | W | U}; {FLUSH}; {READ}") == 0x22222222


@pytest.mark.parametrize("kind", ["interpret", "translate"])
def test_a_page_may_hold_both_a_table_and_code(paged: Callable[..., World], kind: str) -> None:
    world = paged(kind)
    call = f"mov eax, {CODE}; call eax; mov edx, eax"
    world.put("mov eax, 1; ret", CODE)
    assert perform(world, call) == 1
    flush(world, PATIENCE + 1)
    assert perform(world, f"mov byte ptr [{CODE + 1}], 2; {call}") == 2  # ends the table's trace, not the code's
    assert perform(world, f"mov dword ptr [{ENTRY}], {OTHER | P | W | U}; {FLUSH}; {READ}") == 0x22222222
    assert perform(world, f"mov byte ptr [{CODE + 1}], 3; {call}") == 3
    flush(world, 2 * PATIENCE + 1)
    for number in range(4, 12):  # the code goes to sleep, the table does not
        world.put(f"mov eax, {number}; ret", CODE)
    assert perform(world, call) == 11
    flush(world, 4 * PATIENCE + 1)
    assert perform(world, f"mov dword ptr [{ENTRY}], {DATA | P | W | U}; {FLUSH}; {READ}") == 0x11111111
    assert perform(world, f"mov byte ptr [{CODE + 1}], 12; {call}") == 12


def test_code_leaves_a_table_its_trace(paged: Callable[..., World]) -> None:
    world = paged()
    call = f"mov eax, {CODE}; call eax; mov edx, eax"
    world.put("mov eax, 1; ret", CODE)
    assert perform(world, call) == 1
    flush(world, PATIENCE + 1)
    world.engine.cache.flush()  # type: ignore[attr-defined]
    assert traced(world)
    assert perform(world, f"mov dword ptr [{ENTRY}], {OTHER | P | W | U}; {FLUSH}; {READ}") == 0x22222222


@pytest.mark.parametrize("bits", [P | W | A | D, P | W])
def test_a_mapping_made_to_be_used_at_once_does_not_fault(paged: Callable[..., World], bits: int) -> None:
    world = paged()
    world.memory.write(DIRECTORY + 4, 4, SECOND | P | W | U)
    make_it, undo_it = f"mov dword ptr [{SECOND}], {DATA | bits}", f"mov dword ptr [{SECOND}], 0"
    use = f"mov dword ptr [0x400000], ecx; {undo_it}; {FLUSH}"
    before = world.engine.counters().exits["hidden page fault"]
    assert perform(world, f"mov ecx, 50; again: {make_it}; {FLUSH}; {use}; dec ecx; jnz again; {READ}") == 1
    faults = world.engine.counters().exits["hidden page fault"] - before
    assert faults < 5 if bits & A else faults >= 50  # that sets the bits, which only an access may do
