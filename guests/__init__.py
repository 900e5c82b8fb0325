"""The bundled guests: a catalogue read from the comment headers of their assembly sources."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

FORMATS = {"flat": "raw", "boot": "disk", "multiboot": "raw", "elf": "elf"}  # and the container each comes in
SUFFIXES = {"raw": ".bin", "disk": ".img", "elf": ".elf"}
EXIT_VALUE = 0x10  # what every bundled guest writes to the ISA debug exit when it is content
_BLOCKS = ("expect", "expect-small")
_KEYS = frozenset(
    ("guest", "summary", "format", "container", "mode", "org", "memory", "tags", "exit", "success-code", "newline")
) | {"scale", "note"}
_NEWLINES = {"lf": "\n", "crlf": "\r\n"}


class HeaderError(ValueError):
    """A guest source has no well-formed header; the message names the file and the field."""


@dataclass(frozen=True, slots=True)
class Scale:
    """A 32-bit iteration count inside the image: where it lies, what it holds, and values for quick and long runs."""

    offset: int  # bytes from the start of the image
    default: int
    small: int
    bench: int


@dataclass(frozen=True, slots=True)
class Guest:
    """One bundled guest and what it must show.

    `format` is how it is loaded, `container` the shape of its file ("raw", "disk", "elf": a multiboot kernel may be
    raw or ELF). `mode` is the mode at entry in bits, `org` the load address (of ELF and multiboot images: the address
    of the first byte), `memory` in MiB. `expect` is the whole console text, exactly; `exit_code` the process status
    of a run; `success_code` the same status, for callers that map it to 0. `scale` and `expect_small` belong to
    guests tagged "compute". `qemu_lines` holds (line number from 1, text) where a QEMU release is known to differ
    from the manual, which `expect` follows.
    """

    name: str
    summary: str
    source: Path
    path: Path
    format: str
    container: str
    mode: int
    org: int
    expect: str
    exit_code: int
    success_code: int
    tags: tuple[str, ...]
    memory: int
    scale: Scale | None = None
    expect_small: str = ""
    qemu_lines: tuple[tuple[int, str], ...] = ()

    @property
    def small_scale(self) -> int | None:
        """The iteration count of a run of at most 30,000 instructions, where the guest has one."""
        return None if self.scale is None else self.scale.small

    def image(self, scale: int | None = None) -> bytes:
        """The image's bytes, with the iteration count replaced by `scale`. Raises ValueError without a count."""
        data = self.path.read_bytes()
        if scale is None:
            return data
        if self.scale is None:
            raise ValueError(f"guest {self.name} has no iteration count to change")
        at = self.scale.offset
        return data[:at] + scale.to_bytes(4, "little") + data[at + 4 :]


def catalogue() -> dict[str, Guest]:
    """Every bundled guest by name, in name order. Raises HeaderError for a malformed source header."""
    folder = Path(str(files(__name__)))
    guests = (parse_header(source) for source in sorted(folder.glob("*.s")))
    return {guest.name: guest for guest in guests}


def linux_programs() -> dict[str, Guest]:
    """Programs for Linux, built and described as the guests are; they run in a guest's Linux or on the host's."""
    folder = Path(str(files(__name__))) / "user"
    return {program.name: program for program in map(parse_header, sorted(folder.glob("*.s")))}


def parse_header(source: Path) -> Guest:
    """Read the comment lines that open `source`. Raises HeaderError, naming the field at fault."""
    fields, blocks, qemu_lines = _read_fields(source)

    def number(key: str, default: int | None = None) -> int:
        if key not in fields and default is not None:
            return default
        try:
            return int(fields[key], 0)
        except (KeyError, ValueError):
            raise HeaderError(f"{source.name}: header field {key!r} is missing or no number") from None

    name, kind = fields.get("guest", ""), fields.get("format", "")
    if name != source.stem:
        raise HeaderError(f"{source.name}: header names guest {name!r}")
    if kind not in FORMATS:
        raise HeaderError(f"{source.name}: unknown format {kind!r}")
    container = fields.get("container", FORMATS[kind])
    if container not in SUFFIXES:
        raise HeaderError(f"{source.name}: unknown container {container!r}")
    if "expect" not in blocks:
        raise HeaderError(f"{source.name}: header has no expect block")
    newline = _NEWLINES.get(fields.get("newline", "lf"))
    if newline is None:
        raise HeaderError(f"{source.name}: header field 'newline' is not lf or crlf")
    return Guest(
        name=name,
        summary=fields.get("summary", ""),
        source=source,
        path=source.parent / "bin" / (name + SUFFIXES[container]),
        format=kind,
        container=container,
        mode=number("mode"),
        org=number("org"),
        expect=_text(blocks["expect"], newline),
        exit_code=number("exit", (EXIT_VALUE << 1) | 1),
        success_code=number("success-code", (EXIT_VALUE << 1) | 1),
        tags=tuple(fields.get("tags", "").split()),
        memory=number("memory", 32),
        scale=_scale(source, fields.get("scale")),
        expect_small=_text(blocks.get("expect-small", []), newline),
        qemu_lines=tuple(qemu_lines),
    )


def _read_fields(source: Path) -> tuple[dict[str, str], dict[str, list[str]], list[tuple[int, str]]]:
    qemu_lines: list[tuple[int, str]] = []
    fields: dict[str, str] = {}
    blocks: dict[str, list[str]] = {}
    block: list[str] | None = None
    for line in source.read_text(encoding="ascii").splitlines():
        if not line.startswith(";"):
            break
        if block is not None and (line.startswith(";   ") or line == ";"):
            block.append(line[4:])
            continue
        key, _, value = line[1:].strip().partition(":")
        block = None
        if key in _BLOCKS:
            block = blocks[key] = []
        elif key == "qemu-line":
            number, _, text = value.strip().partition(" ")
            if not number.isdigit():
                raise HeaderError(f"{source.name}: header field 'qemu-line' does not open with a line number")
            qemu_lines.append((int(number), text))
        elif key in _KEYS:
            # a note may repeat; the last one wins for readers, all of them stay in the source
            fields[key] = value.strip()
        elif not line.startswith(";  "):
            raise HeaderError(f"{source.name}: unknown header field {key!r}")
    return fields, blocks, qemu_lines


def _text(lines: list[str], newline: str) -> str:
    return "".join(line + newline for line in lines)


def _scale(source: Path, value: str | None) -> Scale | None:
    if value is None:
        return None
    match = re.fullmatch(r"offset (\d+) default (\d+) small (\d+) bench (\d+)", value)
    if match is None:
        raise HeaderError(f"{source.name}: header field 'scale' is not 'offset N default N small N bench N'")
    return Scale(*(int(number) for number in match.groups()))
