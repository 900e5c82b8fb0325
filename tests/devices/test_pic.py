"""The 8259A pair against its datasheet: initialisation, priorities, service, the kinds of EOI, cascade, triggering."""

from __future__ import annotations

import pytest

from emu.devices.pic import PicPair

MASTER, SLAVE, ELCR = 0, 2, 4
EOI, ROTATE_EOI = 0x20, 0xA0
READ_IRR, READ_ISR, POLL = 0x0A, 0x0B, 0x0C


class Board:
    """A pair and what its output did."""

    def __init__(self) -> None:
        self.levels: list[bool] = []
        self.pic = PicPair(self.levels.append)

    def out(self, offset: int, value: int) -> None:
        self.pic.write(offset, 1, value)

    def into(self, offset: int) -> int:
        return self.pic.read(offset, 1)

    def init(self, master_icw4: int = 0x01, slave_icw4: int = 0x01) -> None:
        """As an operating system does: vectors 20h and 28h, slave on input 2, all inputs open."""
        for chip, base, wiring, icw4 in ((MASTER, 0x20, 4, master_icw4), (SLAVE, 0x28, 2, slave_icw4)):
            self.out(chip, 0x11)
            self.out(chip + 1, base)
            self.out(chip + 1, wiring)
            self.out(chip + 1, icw4)
            self.out(chip + 1, 0x00)

    def up(self, *numbers: int) -> None:
        for number in numbers:
            self.pic.line(number).set(True)

    def down(self, *numbers: int) -> None:
        for number in numbers:
            self.pic.line(number).set(False)

    def edge(self, *numbers: int) -> None:
        for number in numbers:
            self.down(number)
            self.up(number)

    def irr(self, chip: int = MASTER) -> int:
        self.out(chip, READ_IRR)
        return self.into(chip)

    def isr(self, chip: int = MASTER) -> int:
        self.out(chip, READ_ISR)
        return self.into(chip)


@pytest.fixture
def board() -> Board:
    board = Board()
    board.init()
    return board


# -- initialisation --------------------------------------------------------------------------------------------------


def test_vectors_of_every_input(board: Board) -> None:
    for number in (0, 1, 3, 4, 5, 6, 7):
        board.edge(number)
        assert board.pic.acknowledge() == 0x20 + number
        board.out(MASTER, EOI)
    for number in range(8, 16):
        board.edge(number)
        assert board.pic.acknowledge() == 0x28 + number - 8
        board.out(SLAVE, EOI)
        board.out(MASTER, EOI)


def test_low_bits_of_the_vector_come_from_the_input_only(board: Board) -> None:
    board.out(MASTER, 0x11)
    for value in (0x77, 0x04, 0x01):
        board.out(MASTER + 1, value)
    board.edge(0)
    assert board.pic.acknowledge() == 0x70


def test_icw1_without_icw4_and_single_ends_after_icw2() -> None:
    board = Board()
    board.out(MASTER, 0x12)  # single, no ICW4
    board.out(MASTER + 1, 0x40)
    board.out(MASTER + 1, 0xA5)  # already OCW1
    assert board.into(MASTER + 1) == 0xA5


def test_icw1_without_icw4_takes_icw3() -> None:
    board = Board()
    board.out(MASTER, 0x10)
    for value in (0x40, 0x04, 0x5A):
        board.out(MASTER + 1, value)
    assert board.into(MASTER + 1) == 0x5A


def test_icw1_clears_mask_service_and_edges_and_selects_irr(board: Board) -> None:
    board.out(MASTER + 1, 0x40)
    board.edge(3, 5)
    assert board.pic.acknowledge() == 0x23
    board.out(MASTER, READ_ISR)
    assert board.into(MASTER) == 0x08
    board.init()
    assert board.into(MASTER + 1) == 0x00
    assert board.into(MASTER) == 0x00  # IRR, though inputs 3 and 5 are still up
    assert board.isr() == 0x00
    assert not board.pic.pending()
    board.edge(5)
    assert board.pic.acknowledge() == 0x25


def test_icw1_ends_special_modes(board: Board) -> None:
    board.init(master_icw4=0x13)  # special fully nested, automatic EOI
    board.out(MASTER, 0x80)  # rotating
    board.out(MASTER, 0x68)  # special mask
    board.out(MASTER, 0xC3)  # input 4 highest
    board.out(MASTER, POLL)
    board.out(MASTER, 0x10)
    for value in (0x20, 0x04, 0x00):
        board.out(MASTER + 1, value)
    assert board.into(MASTER + 1) == 0x00  # no poll
    board.edge(1, 4)
    assert board.pic.acknowledge() == 0x21  # the order starts at 0 again
    assert board.isr() == 0x02  # no automatic EOI
    board.out(MASTER + 1, 0x02)  # masked, which would let input 4 through in special mask mode
    assert not board.pic.pending()


# -- requests, masks, priorities -------------------------------------------------------------------------------------


def test_mask_holds_back_and_remembers(board: Board) -> None:
    board.out(MASTER + 1, 0x08)
    board.edge(3)
    assert not board.pic.pending()
    assert board.irr() == 0x08
    board.out(MASTER + 1, 0x00)
    assert board.pic.pending()
    assert board.pic.acknowledge() == 0x23


def test_highest_priority_first(board: Board) -> None:
    board.edge(6, 3, 1)
    order = []
    while board.pic.pending():
        order.append(board.pic.acknowledge())
        board.out(MASTER, EOI)
    assert order == [0x21, 0x23, 0x26]


def test_slave_stands_between_inputs_1_and_3(board: Board) -> None:
    board.edge(3, 15, 8, 1)
    order = []
    while board.pic.pending():
        order.append(board.pic.acknowledge())
        if order[-1] >= 0x28:
            board.out(SLAVE, EOI)
        board.out(MASTER, EOI)
    assert order == [0x21, 0x28, 0x2F, 0x23]


def test_nested_service(board: Board) -> None:
    board.edge(5)
    assert board.pic.acknowledge() == 0x25
    board.edge(6, 5)
    assert not board.pic.pending()  # neither lower nor equal
    board.edge(2 + 1)
    assert board.pic.acknowledge() == 0x23
    assert board.isr() == 0x28
    board.out(MASTER, EOI)  # ends 3, the highest
    assert board.isr() == 0x20
    assert not board.pic.pending()
    board.out(MASTER, EOI)
    assert board.pic.acknowledge() == 0x25


def test_irr_and_isr(board: Board) -> None:
    board.edge(0, 7, 12)
    assert board.irr() == 0x85  # 0, 7 and the cascade
    assert board.irr(SLAVE) == 0x10
    board.pic.acknowledge()
    assert board.irr() == 0x84
    assert board.isr() == 0x01
    assert board.into(MASTER) == 0x01  # the choice of register stays
    board.out(MASTER, 0x08)  # OCW3 that chooses nothing
    assert board.into(MASTER) == 0x01


def test_output_is_reported_on_changes_only(board: Board) -> None:
    assert board.levels == []
    board.edge(1, 3)
    assert board.levels == [True]
    board.pic.acknowledge()
    assert board.levels == [True, False]  # 3 waits behind 1
    board.out(MASTER, EOI)
    assert board.levels == [True, False, True]
    board.out(MASTER + 1, 0xFF)
    assert board.levels == [True, False, True, False]


# -- end of interrupt ------------------------------------------------------------------------------------------------


def test_specific_eoi_ends_just_that_one(board: Board) -> None:
    board.edge(5)
    board.pic.acknowledge()
    board.edge(3)
    board.pic.acknowledge()
    board.out(MASTER, 0x65)
    assert board.isr() == 0x08
    board.out(MASTER, 0x63)
    assert board.isr() == 0x00
    board.edge(6, 0)
    assert board.pic.acknowledge() == 0x20  # nothing rotated


def test_eoi_with_nothing_in_service_and_ocw2_nop(board: Board) -> None:
    board.out(MASTER, EOI)
    board.out(MASTER, ROTATE_EOI)
    board.edge(5)
    board.pic.acknowledge()
    board.out(MASTER, 0x40)
    assert board.isr() == 0x20
    board.out(MASTER, EOI)
    board.edge(6, 0)
    assert board.pic.acknowledge() == 0x20  # nothing rotated


def test_automatic_eoi() -> None:
    board = Board()
    board.init(master_icw4=0x03)
    board.edge(3, 5)
    assert board.pic.acknowledge() == 0x23
    assert board.isr() == 0x00
    assert board.pic.acknowledge() == 0x25
    assert not board.pic.pending()


def test_rotation_on_non_specific_eoi(board: Board) -> None:
    board.edge(4)
    board.pic.acknowledge()
    board.out(MASTER, ROTATE_EOI)  # 4 is lowest now, 5 highest
    board.edge(4, 0, 5)
    order = []
    while board.pic.pending():
        order.append(board.pic.acknowledge())
        board.out(MASTER, EOI)
    assert order == [0x25, 0x20, 0x24]


def test_rotation_on_specific_eoi(board: Board) -> None:
    board.edge(6)
    board.pic.acknowledge()
    board.edge(1)
    board.pic.acknowledge()
    board.out(MASTER, 0xE6)
    assert board.isr() == 0x02
    board.edge(7)
    assert board.pic.acknowledge() == 0x27  # 7 is highest: it interrupts 1


def test_rotation_on_automatic_eoi() -> None:
    board = Board()
    board.init(master_icw4=0x03)
    board.out(MASTER, 0x80)
    board.edge(0, 1)
    assert board.pic.acknowledge() == 0x20
    board.edge(0)
    assert board.pic.acknowledge() == 0x21
    board.out(MASTER, 0x00)  # rotation ends: the order stays as it was left
    assert board.pic.acknowledge() == 0x20
    board.edge(1, 2 + 1)
    assert board.pic.acknowledge() == 0x23


def test_set_priority(board: Board) -> None:
    board.out(MASTER, 0xC5)  # 5 lowest
    board.edge(0, 5, 7)
    assert board.pic.acknowledge() == 0x27
    board.out(MASTER, EOI)
    assert board.pic.acknowledge() == 0x20


# -- special modes ---------------------------------------------------------------------------------------------------


def test_special_mask_mode_lets_lower_inputs_in(board: Board) -> None:
    board.edge(3)
    board.pic.acknowledge()
    board.edge(6)
    board.out(MASTER + 1, 0x08)
    assert not board.pic.pending()
    board.out(MASTER, 0x68)
    assert board.pic.acknowledge() == 0x26
    board.out(MASTER, EOI)  # ends 6: a masked one is passed over
    assert board.isr() == 0x08
    board.out(MASTER, EOI)
    assert board.isr() == 0x08
    board.edge(6)
    board.out(MASTER, 0x48)  # normal mask mode again
    assert not board.pic.pending()
    board.out(MASTER, EOI)
    assert board.isr() == 0x00
    assert board.pic.acknowledge() == 0x26


def test_special_mask_bit_without_its_enable_changes_nothing(board: Board) -> None:
    board.edge(3)
    board.pic.acknowledge()
    board.edge(6)
    board.out(MASTER + 1, 0x08)
    board.out(MASTER, 0x28)
    assert not board.pic.pending()


def test_special_fully_nested_mode() -> None:
    board = Board()
    board.init(master_icw4=0x11)
    board.edge(12)
    assert board.pic.acknowledge() == 0x2C
    board.edge(13)
    board.edge(3)
    assert not board.pic.pending()  # 13 ranks lower in the slave, 3 lower than the cascade in the master
    board.edge(9)
    assert board.pic.acknowledge() == 0x29
    assert board.isr() == 0x04
    assert board.isr(SLAVE) == 0x12


def test_special_nesting_means_nothing_in_a_slave() -> None:
    board = Board()
    board.init(master_icw4=0x11, slave_icw4=0x11)
    board.edge(10)
    assert board.pic.acknowledge() == 0x2A
    board.edge(10)
    assert not board.pic.pending()


def test_without_special_nesting_the_slave_locks_itself_out(board: Board) -> None:
    board.edge(12)
    board.pic.acknowledge()
    board.edge(9)
    assert not board.pic.pending()
    board.out(MASTER, EOI)
    assert board.pic.acknowledge() == 0x29


def test_poll_acknowledges(board: Board) -> None:
    board.edge(4, 6)
    board.out(MASTER, POLL)
    assert board.into(MASTER) == 0x84
    assert board.isr() == 0x10
    assert not board.pic.pending()
    board.out(MASTER, EOI)
    board.out(MASTER, POLL)
    assert board.into(MASTER + 1) == 0x86  # at either address
    assert board.into(MASTER + 1) == 0x00  # once: this is the mask
    board.edge(0)
    board.out(MASTER, POLL)
    assert board.into(MASTER) == 0x80


def test_poll_with_nothing_to_do(board: Board) -> None:
    board.out(MASTER, POLL)
    assert board.into(MASTER) & 0x80 == 0
    assert board.isr() == 0x00


def test_poll_of_both_chips(board: Board) -> None:
    board.edge(10)
    board.out(MASTER, POLL)
    assert board.into(MASTER) == 0x82
    board.out(SLAVE, POLL)
    assert board.into(SLAVE) == 0x82
    assert board.isr(SLAVE) == 0x04


# -- spurious interrupts ---------------------------------------------------------------------------------------------


def test_spurious_on_the_master(board: Board) -> None:
    board.edge(4)
    board.down(4)  # gone before the acknowledge
    assert not board.pic.pending()
    assert board.pic.acknowledge() == 0x27
    assert board.isr() == 0x00


def test_spurious_on_the_slave(board: Board) -> None:
    board.edge(12)
    board.pic._slave.state.irr = 0  # the request goes between the master's answer and the slave's
    assert board.pic.acknowledge() == 0x2F
    assert board.isr(SLAVE) == 0x00
    assert board.isr() == 0x04  # the handler owes the master an EOI


# -- cascade ---------------------------------------------------------------------------------------------------------


def test_masked_cascade_holds_the_slave_back(board: Board) -> None:
    board.out(MASTER + 1, 0x04)
    board.edge(8)
    assert not board.pic.pending()
    board.out(MASTER + 1, 0x00)
    assert board.pic.acknowledge() == 0x28


def test_second_slave_request_waits_for_the_slaves_eoi(board: Board) -> None:
    board.edge(8, 9)
    assert board.pic.acknowledge() == 0x28
    board.out(MASTER, EOI)
    assert not board.pic.pending()
    board.out(SLAVE, EOI)
    assert board.pic.acknowledge() == 0x29


def test_slave_with_automatic_eoi_loses_nothing() -> None:
    board = Board()
    board.init(slave_icw4=0x03)
    board.edge(8, 9)
    assert board.pic.acknowledge() == 0x28
    board.out(MASTER, EOI)
    assert board.pic.pending()
    assert board.pic.acknowledge() == 0x29
    board.out(MASTER, EOI)
    assert not board.pic.pending()


def test_request_cleared_at_the_slave_leaves_the_master(board: Board) -> None:
    board.edge(8)
    assert board.pic.pending()
    board.out(SLAVE + 1, 0x01)
    assert not board.pic.pending()
    assert board.irr() == 0x00


# -- triggering ------------------------------------------------------------------------------------------------------


def test_edge_asks_once(board: Board) -> None:
    board.up(5)
    board.pic.acknowledge()
    board.out(MASTER, EOI)
    assert not board.pic.pending()  # still up, but no new edge
    board.up(5)
    assert not board.pic.pending()
    board.edge(5)
    assert board.pic.pending()


def test_level_asks_as_long_as_it_is_up(board: Board) -> None:
    board.out(ELCR, 0x20)
    board.up(5)
    for _ in range(3):
        assert board.pic.acknowledge() == 0x25
        assert not board.pic.pending()  # in service
        board.out(MASTER, EOI)
        assert board.pic.pending()
    board.down(5)
    assert not board.pic.pending()


def test_level_on_the_slave(board: Board) -> None:
    board.out(ELCR + 1, 0x08)
    board.up(11)
    for _ in range(2):
        assert board.pic.acknowledge() == 0x2B
        board.out(SLAVE, EOI)
        board.out(MASTER, EOI)
    board.down(11)
    assert not board.pic.pending()


def test_input_that_is_up_asks_when_it_becomes_level_triggered(board: Board) -> None:
    board.up(10)
    board.pic.acknowledge()
    board.out(SLAVE, EOI)
    board.out(MASTER, EOI)
    assert not board.pic.pending()
    board.out(ELCR + 1, 0x04)
    assert board.pic.acknowledge() == 0x2A


def test_choosing_the_trigger_keeps_other_requests(board: Board) -> None:
    board.edge(4)
    board.out(ELCR, 0x20)
    assert board.pic.acknowledge() == 0x24


def test_level_triggered_input_survives_icw1() -> None:
    board = Board()
    board.out(ELCR, 0x20)
    board.up(5)
    board.init()
    assert board.pic.acknowledge() == 0x25


def test_elcr_bits_of_fixed_inputs_stay_clear(board: Board) -> None:
    board.out(ELCR, 0xFF)
    board.out(ELCR + 1, 0xFF)
    assert board.into(ELCR) == 0xF8  # not the timer, the keyboard, the cascade
    assert board.into(ELCR + 1) == 0xDE  # not the clock, the coprocessor
