"""What vemu prints about itself: the summary of a run, lists and block listings; coloured tables on a terminal only."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final, TextIO

if TYPE_CHECKING:
    from emu.exits import Ending
    from emu.listing import BlockListing
    from emu.machine import RunResult, RunStats

Row = tuple[str, ...]

_MOST_EXITS: Final = 12  # reasons the summary lists by name: it must fit one screen
_GUEST_COLUMN: Final = 46  # at least so wide; a block with longer lines has a wider one
_ADDRESS: Final = 10


def mips(stats: RunStats) -> float:
    """Million guest instructions per second."""
    return stats.instructions / stats.seconds / 1e6 if stats.seconds > 0 else 0.0


def native_share(stats: RunStats) -> float:
    """Share (0 to 1) of the guest's instructions that ran as translated code."""
    return stats.native_instructions / stats.instructions if stats.instructions else 0.0


def chained_share(stats: RunStats) -> float:
    """Share (0 to 1) of direct exits that were chained; one chained again after an unlink counts as one."""
    return min(stats.links / stats.direct_exits, 1.0) if stats.direct_exits else 0.0


def as_json(result: RunResult, console: str, guest: str) -> dict[str, object]:
    """The run as one JSON object; shares are 0 to 1."""
    ending, stats = result.ending, result.stats
    figures = dataclasses.asdict(stats)
    figures |= {"mips": mips(stats), "native_share": native_share(stats), "chained_share": chained_share(stats)}
    return {
        "guest": guest,
        "ending": ending.reason.value,
        "code": ending.code,
        "detail": ending.detail,
        "console": console,
        "stats": figures,
    }


def summary_rows(stats: RunStats) -> list[Row]:
    """Name, value and remark of each line of the summary."""
    rows: list[Row] = [
        ("guest instructions", f"{stats.instructions:,}", ""),
        ("speed", f"{mips(stats):.2f} MIPS", f"in {stats.seconds:.3f} s"),
    ]
    if stats.blocks:
        cost = stats.translation_seconds / max(stats.translated_instructions, 1) * 1e6
        rows += [
            ("run natively", f"{native_share(stats):.2%}", ""),
            ("blocks", f"{stats.blocks:,}", f"{stats.translated_instructions:,} instructions at {cost:.1f} us"),
            *_reused(stats),
            ("chained", f"{chained_share(stats):.1%}", f"of {stats.direct_exits:,} direct exits"),
        ]
        if stats.guest_bytes:
            expansion = stats.host_bytes / stats.guest_bytes
            rows.append(("code expansion", f"{expansion:.2f}", f"{stats.guest_bytes:,} to {stats.host_bytes:,} bytes"))
    exits = sorted(((count, reason) for reason, count in stats.exits.items() if count), reverse=True)
    rows.append(("exits", f"{sum(count for count, _ in exits):,}", ""))
    rows += [(f"  {reason}", f"{count:,}", "") for count, reason in exits[:_MOST_EXITS]]
    if len(exits) > _MOST_EXITS:
        rest = sum(count for count, _ in exits[_MOST_EXITS:])
        rows.append(("  other reasons", f"{rest:,}", f"{len(exits) - _MOST_EXITS} of them"))
    return rows


def _reused(stats: RunStats) -> list[tuple[str, str, str]]:
    if not stats.reused_instructions:
        return []
    share = stats.reused_instructions / stats.translated_instructions
    return [("from earlier runs", f"{share:.2%}", f"{stats.reused_instructions:,} of these instructions")]


def print_ending(ending: Ending, stream: TextIO) -> None:
    """Why the run ended, and the exit code; an explanation of several lines goes below."""
    first, _, more = ending.detail.partition("\n")
    print(f"vemu: {first or ending.reason.value} [exit code {ending.code}]", file=stream)
    if more:
        print(more, file=stream)


def print_summary(stats: RunStats, title: str, stream: TextIO) -> None:
    """The one-screen summary of a run."""
    print_table(("figure", "value", ""), summary_rows(stats), stream, title=title, right=(1,))


def print_table(
    header: Sequence[str], rows: Iterable[Row], stream: TextIO, *, title: str = "", right: Sequence[int] = ()
) -> None:
    """A table: drawn on a terminal, in plain fixed columns anywhere else."""
    rows = list(rows)
    if is_terminal(stream):
        _draw(header, rows, stream, title, right)
        return
    widths = [max(len(row[at]) for row in [header, *rows]) for at in range(len(header))]
    if title:
        print(title, file=stream)
    for row in rows:
        cells = (
            cell.rjust(w) if at in right else cell.ljust(w)
            for at, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        print("  ".join(cells).rstrip(), file=stream)


def is_terminal(stream: TextIO) -> bool:
    """True where tables may be drawn and colours used (rich itself heeds NO_COLOR for the latter)."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def _draw(header: Sequence[str], rows: list[Row], stream: TextIO, title: str, right: Sequence[int]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title) if title else None, title_justify="left", box=box.SIMPLE_HEAD)
    for at, name in enumerate(header):
        table.add_column(name, justify="right" if at in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    Console(file=stream, highlight=False).print(table)


def print_blocks(listings: Iterable[BlockListing], stream: TextIO) -> int:
    """Translated blocks side by side: guest code left, host code right; returns how many were printed."""
    bold, red, plain = (
        ("\x1b[1m", "\x1b[31m", "\x1b[0m") if is_terminal(stream) and not os.environ.get("NO_COLOR") else [""] * 3
    )
    count = 0
    for block in listings:
        print(f"{bold}{block.title}{plain}", file=stream)
        lefts = [f"{row.guest_address:>{_ADDRESS}}  {row.guest}" for row in block.rows]
        width = max(map(len, lefts), default=0)
        for row, left in zip(block.rows, lefts, strict=True):
            right = f"{row.host_address:>{_ADDRESS}}  {row.host}" if row.host_address else ""
            mark = red if row.callout else ""
            # colours go around the padding, or they would count as columns
            print(f"{mark}{left:<{max(width, _GUEST_COLUMN)}}{plain if mark else ''} |{right}".rstrip(), file=stream)
        print(file=stream)
        count += 1
    return count
