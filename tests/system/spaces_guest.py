"""Makes guests that switch at random between address spaces whose tables they change, and tells what they must print.

Each space has a root, a PDPT, a directory and two page tables of its own; the first 2 MiB are the same in all. The
upper half has the guest's tables, which it writes to there, and from two slots of the root on whatever a space has. A
flush follows every change of the present space's tables, so that what an access finds is defined (SDM vol. 3, 4.10.4).
"""

from __future__ import annotations

import random
from typing import Final

SPACES: Final = 0x210000
FARS: Final = 0x260000
FRAMES: Final = 0x700000  # pages that hold their own numbers, at first
COUNT: Final = 512
_LOW: Final = 0x207000
_HIGH: Final = 0xFFFF_8000_0000_0000
_SLOTS: Final = (300, 301)
_ENTRY: Final = 7  # present, writable, for all
_M32: Final = 0xFFFF_FFFF

_START: Final = f"""\
.include "env64.inc"
start:
    mov edi, {SPACES:#x}
    mov ecx, 0x20000
    xor eax, eax
    rep stosd
    mov edi, {_LOW:#x}
    mov eax, 7
    mov ecx, 512
.low:
    mov qword ptr [rdi], rax
    add eax, 0x1000
    add edi, 8
    loop .low
    mov edi, {FRAMES:#x}
    xor ecx, ecx
.frame:
    mov dword ptr [rdi], ecx
    add edi, 0x1000
    inc ecx
    cmp ecx, {COUNT}
    jb .frame
    mov rbx, {_HIGH:#x}
    xor r12d, r12d
"""
_FLUSH: Final = "mov rax, cr3; mov cr3, rax"


class SpacesGuest:
    """The guest of a seed: its assembly `text`, and the number that it `prints`."""

    def __init__(self, seed: int) -> None:
        self._random = choose = random.Random(seed)
        self._lines = [_START]
        self._words: dict[int, int] = {}  # the guest's tables
        self._frames = list(range(COUNT))
        self._sum = 0
        self._spaces = [SPACES + number * 0x10000 for number in range(choose.randint(2, 4))]
        self._fars = [FARS + number * 0x3000 for number in range(3)]
        self._near = [0x600000 + page * 0x1000 for page in choose.sample(range(1, 40), choose.choice((2, 4, 10)))]
        self._near += [0x800000 + page * 0x1000 for page in choose.sample(range(1, 40), 2)]
        self._far = [0xFFFF << 48 | _SLOTS[0] << 39 | page * 0x1000 for page in (1, 2, 9)]
        self._far.append(0xFFFF << 48 | _SLOTS[1] << 39 | 0x1000)
        for space in self._spaces:
            self._set(space, space + 0x1000, "")
            self._set(space + 8 * 256, 0x201000, "")
            self._set(space + 0x1000, space + 0x2000, "")
            self._set(space + 0x2000, _LOW, "")
            self._set(space + 0x2000 + 8 * 3, space + 0x3000, "")
            self._set(space + 0x2000 + 8 * 4, space + 0x4000, "")
        for far in self._fars:
            self._open(far, "")
        self._present = self._spaces[0]
        self._enter(self._present)
        steps = (self._switch, self._near_page, self._directory, self._far_page, self._slot, self._way, self._use)
        for step in choose.choices(steps, (35, 20, 5, 6, 6, 4, 24), k=choose.choice((150, 400))):
            step()
        self._lines.append("show r12d; newline; call finish")

    @property
    def text(self) -> str:
        return "\n".join(line.replace("; ", "\n") for line in self._lines) + "\n"

    @property
    def prints(self) -> str:
        return f"{self._sum:08x} \n"

    # -- what a guest does --------------------------------------------------------------------------------------

    def _set(self, at: int, table: int, base: str = "rbx+") -> None:
        """Set an entry: to a table or page, or to nothing."""
        self._words[at] = table
        self._lines.append(f"mov rax, {table | _ENTRY if table else 0:#x}; mov qword ptr [{base}{at:#x}], rax")

    def _open(self, far: int, base: str = "rbx+") -> None:
        self._set(far, far + 0x1000, base)
        self._set(far + 0x1000, far + 0x2000, base)

    def _enter(self, space: int) -> None:
        self._present = space
        self._lines.append(f"mov eax, {space:#x}; mov cr3, rax")

    def _page(self, absent: float) -> int:
        return 0 if self._random.random() < absent else FRAMES + self._random.randrange(COUNT) * 0x1000

    def _table(self, space: int, linear: int) -> int:
        """The page table of a space for an address of the lower half, or 0."""
        return self._words.get(space + 0x2000 + (linear >> 21) * 8, 0)

    def _switch(self) -> None:
        self._enter(self._random.choice(self._spaces))

    def _near_page(self) -> None:
        choose = self._random
        space, linear = choose.choice(self._spaces), choose.choice(self._near)
        table = self._table(space, linear)
        if not table:
            return
        self._set(table + (linear >> 12 & 511) * 8, self._page(0.3))
        if table == self._table(self._present, linear) or choose.random() < 0.5:
            self._lines.append(_FLUSH if choose.random() < 0.7 else f"mov rax, {linear:#x}; invlpg [rax]")

    def _directory(self) -> None:
        space = self._random.choice(self._spaces)
        self._set(space + 0x2000 + 8 * 3, self._random.choice([other + 0x3000 for other in self._spaces] + [0]))
        self._lines.append(_FLUSH)

    def _far_page(self) -> None:
        self._set(self._random.choice(self._fars) + 0x2000 + 8 * self._random.choice((1, 2, 9)), self._page(0.2))
        self._lines.append(_FLUSH)

    def _slot(self) -> None:
        space = self._random.choice(self._spaces)
        self._set(space + 8 * self._random.choice(_SLOTS), self._random.choice([*self._fars, *self._fars, 0]))
        self._lines.append(_FLUSH)

    def _way(self) -> None:
        far = self._random.choice(self._fars)
        if self._random.random() < 0.5:
            self._open(far)
        else:
            self._set(far + self._random.choice((0, 0x1000)), 0)
        self._lines.append(_FLUSH)

    def _use(self) -> None:
        """Read pages into the sum, or add the sum to them, where they are mapped."""
        for _ in range(self._random.choice((1, 1, 3))):
            linear = self._random.choice(self._near + self._far)
            frame = self._present
            for shift in (39, 30, 21, 12):
                frame = frame and self._words.get(frame + (linear >> shift & 511) * 8, 0)
            if not frame:
                continue
            number = frame - FRAMES >> 12
            self._lines.append(f"mov rsi, {linear:#x}")
            if self._random.random() < 0.6:
                self._lines.append("rol r12d, 3; add r12d, dword ptr [rsi]")
                self._sum = (self._sum << 3 | self._sum >> 29) + self._frames[number] & _M32
            else:
                self._lines.append("add dword ptr [rsi], r12d")
                self._frames[number] = self._frames[number] + self._sum & _M32
