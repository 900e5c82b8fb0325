"""Lays a machine's figures out as lines of text that fit a screen of any size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from emu.engines.base import Occupancy
from emu.top.sample import HotBlock, Snapshot
from emu.trace.reasons import cause_of
from emu.trace.table import Line

_BAR: Final = 20  # columns of a bar
_LEAST_BAR: Final = 60  # columns of a screen, from which there are bars
_MOST_REASONS: Final = 12
_MOST_DEVICES: Final = 6
_MOST_BLOCKS: Final = 5
_MOST_CODE: Final = 6  # instructions of a block
_CONSOLE: Final = 3
_MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Screen:
    """Columns, and lines (None: as many as there are)."""

    width: int
    height: int | None = None


def frame(title: str, now: Snapshot, before: Snapshot, screen: Screen) -> list[Line]:
    """What happened between two snapshots, the most important first; no line is wider than the screen.

    Where it is not high enough, exits, blocks and the console get fewer lines, and at last the end is cut off.
    """
    seconds = max(now.seconds - before.seconds, 1e-9)
    head = [Line(f"{title}  {now.mode}", "bold"), *_speed(now, before, seconds)]
    exits = _rates("exits", _by_exit(now.exits), _by_exit(before.exits), seconds, screen.width)
    devices = _rates("devices", Counter(now.devices), Counter(before.devices), seconds, screen.width)
    memory = _occupancy(now, before, seconds, screen.width)
    blocks = _blocks(now.hot, sum(block.samples for block in now.hot))
    console = [Line("console", "bold"), *(Line(f"  {text}") for text in now.console[-_CONSOLE:])]
    if len(console) == 1:
        console = []
    room = None if screen.height is None else max(screen.height - len(head) - len(memory) - len(console), 0)
    if room is None:
        exits, devices = exits[: _MOST_REASONS + 1], devices[: _MOST_DEVICES + 1]
    else:  # half of it for the exits, a quarter for the devices, the rest for the blocks
        exits = exits[: max(min(room // 2, _MOST_REASONS + 1), 2)]
        devices = devices[: max(min(room // 4, _MOST_DEVICES + 1), 2)]
        blocks = blocks[: max(room - len(exits) - len(devices), 0)]
    lines = [*head, *exits, *memory, *devices, *blocks, *console]
    return [Line(_fitted(line.text, screen.width), line.style) for line in lines[: screen.height]]


def _fitted(text: str, width: int) -> str:
    """`text` without what would move the cursor, cut where it is too wide."""
    text = "".join(char if char.isprintable() else " " for char in text).rstrip()
    return text if len(text) <= width else text[: max(width - 1, 0)] + "~"


def _speed(now: Snapshot, before: Snapshot, seconds: float) -> list[Line]:
    instructions = now.instructions - before.instructions
    native = now.native - before.native
    samples, idle = now.samples - before.samples, now.idle - before.idle
    mips = f"{instructions / seconds / 1e6:.1f} MIPS"
    parts = [mips, f"{now.instructions:,} instructions"]
    if now.occupancy is not None:
        parts.append(f"{_percent(native, instructions)} native")
    parts.append(f"{_percent(idle, samples)} idle")
    times = f"time {now.seconds:.1f} s  guest {now.guest_seconds:.1f} s"
    return [Line("  ".join(parts), "green"), Line(times)]


def _by_exit(exits: Mapping[str, int]) -> Counter[str]:
    """Counts by the exits' own names."""
    found: Counter[str] = Counter()
    for reason, count in exits.items():
        found[cause_of(reason).exit] += count
    return found


def _rates(title: str, now: Counter[str], before: Counter[str], seconds: float, width: int) -> list[Line]:
    """A line for all, and one for each, the most frequent at the moment first."""
    rates = {name: max(count - before[name], 0) / seconds for name, count in now.items()}
    total = sum(rates.values())
    lines = [Line(f"{title}  {total:,.0f} a second, {sum(now.values()):,} in all", "bold")]
    for name, rate in sorted(rates.items(), key=lambda item: (-item[1], -now[item[0]], item[0])):
        bar = f"  {_bar(rate, total)}" if width >= _LEAST_BAR else ""
        lines.append(Line(f"  {name:<20} {rate:>10,.0f}/s{bar}"))
    return lines


def _occupancy(now: Snapshot, before: Snapshot, seconds: float, width: int) -> list[Line]:
    full = now.occupancy
    if full is None:
        return []
    new = (now.translated_blocks - before.translated_blocks) / seconds
    busy = (now.translation_seconds - before.translation_seconds) / seconds
    return [
        Line(
            f"code cache  {_gauge(full.code_used, full.code_size, width)}{full.code_used / _MIB:.1f} of "
            f"{full.code_size / _MIB:.0f} MiB  {full.blocks:,} blocks (+{new:,.0f}/s, {busy:.0%} of the time)  "
            f"flushed {now.flushes}"
        ),
        Line(_shadow(full, width)),
    ]


def _shadow(full: Occupancy, width: int) -> str:
    return (
        f"shadow      {_gauge(full.table_pages, full.table_capacity, width)}{full.table_pages:,} of "
        f"{full.table_capacity:,} pages  {full.shadow_tables:,} tables, {full.shadow_pages:,} pages  "
        f"{full.spaces} address spaces"
    )


def _blocks(hot: tuple[HotBlock, ...], total: int) -> list[Line]:
    if not hot:
        return []
    lines = [Line("hottest blocks", "bold")]
    for block in hot[:_MOST_BLOCKS]:
        lines.append(Line(f"  {_percent(block.samples, total):>6}  {block.name}", "cyan"))
        lines += [Line(f"            {text}") for text in block.code[:_MOST_CODE]]
        if len(block.code) > _MOST_CODE:
            lines.append(Line(f"            ... and {len(block.code) - _MOST_CODE} more"))
    return lines


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f}%" if whole else "0.0%"


def _bar(part: float, whole: float) -> str:
    return "#" * round(_BAR * part / whole) if whole else ""


def _gauge(part: float, whole: float, width: int) -> str:
    return f"[{_bar(part, whole):.<{_BAR}}] " if width >= _LEAST_BAR else ""
