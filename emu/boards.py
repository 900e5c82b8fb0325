"""Addresses of the board `pc`, under a picture of its memory and port maps.

FFFFFFFF_FFFFFFFF
          :            RAM above the hole, from 1_0000_0000 on
1_0000_0000 -----------
  FEE00000             local APIC (movable by IA32_APIC_BASE)
  FEB00000             PCI cards, where no firmware places them
  FEC00000             I/O APIC: ISA interrupts on the inputs of their number, but IRQ 0 on input 2
  D0000000..D2000000   linear window of the monitor for 16- and 32-bit code (no guest-physical meaning)
  C0000000 ----------- the hole: no RAM from here to 4 GiB
          :            RAM
  00100000 -----------
  000F0000             BIOS ROM, read-only (with --bios firmware in 000E0000.. as the host bridge's PAM registers say)
  000E0000             ACPI tables, multiprocessor table (no firmware)
  000C0000             RAM
  000B8000             VGA text memory, plain RAM
  000A0000             nothing: reads as all ones
  0009FC00             extended BIOS data (reserved in the E820 map)
  00000000             RAM; vectors and BIOS data in the first 1.25 KiB

ports                               IRQ
020-021, 0A0-0A1, 4D0-4D1 8259A pair  2 cascade
040-043 8254, 061 port B              0
060, 064 8042 and keyboard            1
070-071 clock and CMOS                8
080 POST code, 092 system control A
0B2-0B3 SMI command, 600-63F power management   9
0BE BIOS services, 0E9 debug console, 0F4 debug exit
170-177, 376 IDE, second channel      15
1F0-1F7, 3F6 IDE                      14
2F8-2FF COM2                          3
3C0-3DF VGA, 3F8-3FF COM1             4
402 debug console of firmware (--bios)
CF8-CFF PCI configuration, CF9 reset
"""

from __future__ import annotations

from typing import Final

RAM_HOLE_START: Final = 0xC000_0000
RAM_HOLE_END: Final = 0x1_0000_0000
VGA_TEXT: Final = 0xB8000
VGA_TEXT_SIZE: Final = 0x8000
BIOS_DATA_END: Final = 0x500
BIOS_ROM: Final = 0xF0000
BIOS_ROM_SIZE: Final = 0x10000

PIC_MASTER: Final = 0x20
PIC_SLAVE: Final = 0xA0
PIC_ELCR: Final = 0x4D0
PIT: Final = 0x40
KEYBOARD_DATA: Final = 0x60
PORT_B: Final = 0x61
KEYBOARD_STATUS: Final = 0x64
RTC: Final = 0x70
POST: Final = 0x80
PORT_92: Final = 0x92
DEBUGCON: Final = 0xE9
DEBUG_EXIT: Final = 0xF4
SMI_COMMAND: Final = 0xB2
POWER_MANAGEMENT: Final = 0x600
POWER_MANAGEMENT_SIZE: Final = 0x40
VGA: Final = 0x3C0
COM1: Final = 0x3F8
COM2: Final = 0x2F8
IDE: Final = 0x1F0
IDE_CONTROL: Final = 0x3F6
IDE_2: Final = 0x170
IDE_2_CONTROL: Final = 0x376
FIRMWARE_DEBUG: Final = 0x402
PCI: Final = 0xCF8

IRQ_TIMER: Final = 0
IRQ_KEYBOARD: Final = 1
IRQ_COM2: Final = 3
IRQ_COM1: Final = 4
IRQ_RTC: Final = 8
IRQ_SCI: Final = 9
IRQ_IDE: Final = 14
IRQ_IDE_2: Final = 15
LOCAL_APIC: Final = 0xFEE0_0000
PCI_CARDS: Final = 0xFEB0_0000
IO_APIC: Final = 0xFEC0_0000
TIMER_INPUT: Final = 2  # of the I/O APIC
PCI_ROUTES: Final = (10, 10, 11, 11)  # IRQs of INTA to INTD
