"""Virtio over PCI, without the legacy interface (virtio 1.2, 4.1): configuration registers, status and interrupt."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from emu.bus import ALL_ONES
from emu.devices.pci import PciFunction
from emu.devices.virtio.queue import F_EVENT_IDX, F_INDIRECT_DESC, Memory, RingError, VirtQueue
from emu.irq import IrqLine

VENDOR: Final = 0x1AF4
BAR: Final = 0  # number of the memory BAR, for PciWindows.connect
BAR_SIZE: Final = 0x4000

# Device status (2.1).
ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, NEEDS_RESET, FAILED = 1, 2, 4, 8, 64, 128
F_VERSION_1: Final = 1 << 32
ISR_QUEUE, ISR_CONFIG = 1, 2  # 4.1.4.5

# Where the structures begin in the BAR, a page each; their capabilities' types (4.1.4).
COMMON, ISR, DEVICE, NOTIFY = 0x0000, 0x1000, 0x2000, 0x3000
_COMMON_TYPE, _NOTIFY_TYPE, _ISR_TYPE, _DEVICE_TYPE, _PCI_TYPE = 1, 2, 3, 4, 5
_COMMON_CONFIG: Final = struct.Struct("<IIIIHHBBHHHHHQQQ")  # 4.1.4.3
_NO_VECTOR: Final = 0xFFFF  # there is no MSI-X
_MULTIPLIER: Final = 4  # bytes between the notification registers of two queues

# PCI configuration: command and status registers, list of capabilities.
_COMMAND_HIGH, _STATUS, _CAPABILITIES = 0x05, 0x06, 0x34
_INTX_DISABLE = 0x04  # bit 10 of the command register, as bit of its high byte
_INTERRUPT_STATUS, _HAS_CAPABILITIES = 0x08, 0x10
_VENDOR_SPECIFIC: Final = 0x09
_FIRST_CAPABILITY: Final = 0x40
_ACCESS: Final = ((12, 1), (8, 4), (4, 4))  # BAR, offset and length of the window, how far before its data
_CAPABILITY: Final = struct.Struct("<BBBBB3xII")  # ID, next, length, type, BAR, offset, length of the structure


class VirtioDevice(Protocol):
    """What stands behind the transport.

    `type` is the virtio device type (5), `class_code` that of PCI in 24 bits, `features` the bits 0 to 23 that it
    offers, `queues` how many it has. The transport sets `kick`; a device calls it with the number of a queue that it
    wants to be serviced, as when input arrives.
    """

    kick: Callable[[int], None] | None

    @property
    def name(self) -> str: ...

    @property
    def type(self) -> int: ...

    @property
    def class_code(self) -> int: ...

    @property
    def features(self) -> int: ...

    @property
    def queues(self) -> int: ...

    def config(self) -> bytes:
        """The device-specific configuration, which drivers only read."""
        ...

    def reset(self) -> None: ...

    def service(self, number: int, queue: VirtQueue) -> None:
        """Take from a queue what it can; RingError where the driver broke a rule."""
        ...


@dataclass(slots=True)
class TransportState:
    """Registers of the common configuration, and the interrupt status."""

    device_feature_select: int = 0
    driver_feature_select: int = 0
    driver_features: int = 0
    status: int = 0
    queue_select: int = 0
    isr: int = 0


class _Function(PciFunction):
    """The PCI function: after every write the interrupt is seen to, and one capability is a window into the BAR."""

    def __init__(self, transport: VirtioPci, device: VirtioDevice) -> None:
        super().__init__(
            VENDOR, 0x1040 + device.type, device.class_code, ((BAR_SIZE, False),),
            revision=1, interrupt_pin=1, subsystem=(VENDOR, 0x1100),  # the values for non-transitional (4.1.2.1)
        )  # fmt: skip
        self._transport = transport
        self.config[_STATUS] |= _HAS_CAPABILITIES
        pci = self._list_capabilities(device)
        self._window = pci + _CAPABILITY.size
        for at in (pci + 4, *range(pci + 8, pci + 20)):  # BAR, offset, length, data
            self.writable[at] = 0xFF

    def _list_capabilities(self, device: VirtioDevice) -> int:
        """Write the list; where its last one, PCI configuration access (4.1.4.9), begins."""
        rows = [
            (_COMMON_TYPE, COMMON, _COMMON_CONFIG.size, b""),
            (_ISR_TYPE, ISR, 1, b""),
            (_NOTIFY_TYPE, NOTIFY, _MULTIPLIER * device.queues, _MULTIPLIER.to_bytes(4, "little")),
            (_PCI_TYPE, 0, 0, bytes(4)),
        ]
        if length := len(device.config()):
            rows.insert(0, (_DEVICE_TYPE, DEVICE, length, b""))
        pointer, at, last = _CAPABILITIES, _FIRST_CAPABILITY, 0
        for kind, offset, length, more in rows:
            size = _CAPABILITY.size + len(more)
            raw = _CAPABILITY.pack(_VENDOR_SPECIFIC, 0, size, kind, BAR, offset, length) + more
            self.config[at : at + size] = raw
            self.config[pointer] = at
            pointer, last, at = at + 1, at, at + size
        return last

    def show_interrupt(self, pending: bool) -> bool:
        """Have the status register tell of an interrupt; whether the command register lets it out (PCI 3.0, 6.2.2)."""
        self.config[_STATUS] = self.config[_STATUS] & ~_INTERRUPT_STATUS | (_INTERRUPT_STATUS if pending else 0)
        return not self.config[_COMMAND_HIGH] & _INTX_DISABLE

    def _windowed(self) -> tuple[int, int] | None:
        """Offset and bytes of the access that the window makes, None where the registers name none that may be."""
        bar, offset, length = (super(_Function, self).read(self._window - back, size) for back, size in _ACCESS)
        if bar != BAR or length not in (1, 2, 4) or offset % length or offset >= BAR_SIZE:
            return None
        return offset, length

    def _in_window(self, register: int, size: int) -> bool:
        return register < self._window + 4 and self._window < register + size

    def read(self, register: int, size: int) -> int:
        if self._in_window(register, size) and (access := self._windowed()) is not None:
            offset, length = access
            value = self._transport.read(offset, length).to_bytes(length, "little")
            self.config[self._window : self._window + length] = value
        return super().read(register, size)

    def write(self, register: int, size: int, value: int) -> None:
        super().write(register, size, value)
        if self._in_window(register, size) and (access := self._windowed()) is not None:
            offset, length = access
            self._transport.write(offset, length, super().read(self._window, length))
        self._transport.update_interrupt()


class VirtioPci:
    """A virtio device as a PCI function; this object is what its BAR (number `BAR`) decodes to.

    `line` is INTA#, a level that reading the ISR status takes back; drivers share it, so the board must too.
    """

    def __init__(self, device: VirtioDevice, memory: Memory, line: IrqLine) -> None:
        self.name = device.name
        self._device, self._line = device, line
        self.state = TransportState()
        self.queues = [VirtQueue(memory) for _ in range(device.queues)]
        self.features = device.features | F_INDIRECT_DESC | F_EVENT_IDX | F_VERSION_1
        self.function = _Function(self, device)
        device.kick = self.service
        self._reads: dict[int, Callable[[int, int], int]] = {
            COMMON: self._read_common, ISR: self._read_isr, DEVICE: self._read_device,
        }  # fmt: skip
        self._common_writes: dict[tuple[int, int], Callable[[int], None]] = {
            (0x00, 4): self._select_device_features,
            (0x08, 4): self._select_driver_features,
            (0x0C, 4): self._accept_features,
            (0x14, 1): self._set_status,
            (0x16, 2): self._select_queue,
            (0x18, 2): self._set_queue_size,
            (0x1C, 2): self._enable_queue,
        }

    # -- queues and the interrupt ------------------------------------------------------------------------------

    def service(self, number: int) -> None:
        """Have the device look at a queue, where the driver has it running."""
        if number >= len(self.queues) or self.state.status & (DRIVER_OK | NEEDS_RESET) != DRIVER_OK:
            return
        queue = self.queues[number]
        if not queue.state.enabled:
            return
        try:
            self._device.service(number, queue)
        except RingError:
            self._break()
        if queue.wants_interrupt():
            self._interrupt(ISR_QUEUE)

    def _break(self) -> None:
        """The driver broke the rules: stand still until it resets the device, and tell it (2.1.2)."""
        self.state.status |= NEEDS_RESET
        if self.state.status & DRIVER_OK:
            self._interrupt(ISR_CONFIG)

    def _interrupt(self, cause: int) -> None:
        self.state.isr |= cause
        self.update_interrupt()

    def update_interrupt(self) -> None:
        """Drive the line as the ISR status and the command register say."""
        pending = self.state.isr != 0
        self._line.set(self.function.show_interrupt(pending) and pending)

    def reset(self) -> None:
        """As after power-on, but for the PCI configuration."""
        self.state = TransportState()
        for queue in self.queues:
            queue.reset()
        self._device.reset()
        self.update_interrupt()

    # -- the BAR -----------------------------------------------------------------------------------------------

    def read(self, offset: int, size: int) -> int:
        read = self._reads.get(offset & ~0xFFF)
        return ALL_ONES[size] if read is None else read(offset & 0xFFF, size)

    def write(self, offset: int, size: int, value: int) -> None:
        within = offset & 0xFFF
        match offset & ~0xFFF:
            case 0x0000:  # COMMON: drivers write every field at its own width (4.1.3.1)
                change = self._common_writes.get((within, size))
                if change is not None:
                    change(value)
                elif 0x20 <= within < 0x38 and size >= 4 and not within % size:
                    self._set_address(within - 0x20, size, value)
            case 0x3000:  # NOTIFY: the register names the queue as well as the value does
                self.service(within // _MULTIPLIER)

    def _read_isr(self, offset: int, size: int) -> int:
        if offset:
            return ALL_ONES[size]
        value, self.state.isr = self.state.isr, 0
        self.update_interrupt()
        return value

    def _read_device(self, offset: int, size: int) -> int:
        return int.from_bytes(self._device.config()[offset : offset + size], "little")

    def _queue(self) -> VirtQueue | None:
        number = self.state.queue_select
        return self.queues[number] if number < len(self.queues) else None

    def _read_common(self, offset: int, size: int) -> int:
        s, queue = self.state, self._queue()
        q = queue.state if queue is not None else None
        raw = _COMMON_CONFIG.pack(
            s.device_feature_select,
            _half(self.features, s.device_feature_select),
            s.driver_feature_select,
            _half(s.driver_features, s.driver_feature_select),
            _NO_VECTOR,
            len(self.queues),
            s.status,
            0,  # no device here changes its configuration
            s.queue_select,
            q.size if q is not None else 0,  # 0: no such queue (4.1.4.3.1)
            _NO_VECTOR,
            int(q is not None and q.enabled),
            s.queue_select if q is not None else 0,
            *(q.rings if q is not None else (0, 0, 0)),
        )
        return int.from_bytes(raw[offset : offset + size], "little")

    # -- writes to the common configuration --------------------------------------------------------------------

    def _select_device_features(self, value: int) -> None:
        self.state.device_feature_select = value

    def _select_driver_features(self, value: int) -> None:
        self.state.driver_feature_select = value

    def _select_queue(self, value: int) -> None:
        self.state.queue_select = value

    def _accept_features(self, value: int) -> None:
        s = self.state
        if s.driver_feature_select < 2 and not s.status & FEATURES_OK:
            shift = 32 * s.driver_feature_select
            s.driver_features = s.driver_features & ~(0xFFFF_FFFF << shift) | value << shift

    def _set_status(self, value: int) -> None:
        """The handshake (3.1.1): 0 resets; FEATURES_OK stays clear where the features cannot be (2.2.2)."""
        s = self.state
        if not value:
            self.reset()
            return
        value &= ~NEEDS_RESET
        if not s.driver_features & F_VERSION_1 or s.driver_features & ~self.features:
            value &= ~FEATURES_OK
        if not (s.status | value) & FEATURES_OK:
            value &= ~DRIVER_OK
        starts = value & ~s.status & DRIVER_OK
        s.status |= value
        if starts:
            # A driver may have made buffers available, and told so, before (3.1.1 forbids only to use them).
            for number, queue in enumerate(self.queues):
                queue.features = s.driver_features
                self.service(number)

    def _set_queue_size(self, value: int) -> None:
        queue = self._queue()
        if queue is not None and not queue.state.enabled:
            queue.state.size = value

    def _enable_queue(self, value: int) -> None:
        queue = self._queue()
        if queue is None or value != 1 or queue.state.enabled:
            return
        try:
            queue.enable()
        except RingError:
            self._break()
            return
        queue.features = self.state.driver_features
        self.service(self.state.queue_select)

    def _set_address(self, offset: int, size: int, value: int) -> None:
        """One of the three addresses, or half of one (4.1.3.1)."""
        queue = self._queue()
        if queue is None or queue.state.enabled:
            return
        rings, number, shift = queue.state.rings, offset // 8, offset % 8 * 8
        rings[number] = rings[number] & ~(ALL_ONES[size] << shift) | value << shift


def _half(features: int, select: int) -> int:
    """The 32 feature bits that a select register names; there are 64."""
    return features >> 32 * select & 0xFFFF_FFFF if select < 2 else 0
