"""Unpacks the compressed kernel inside a bzImage, so that the guest need not do it instruction by instruction.

The setup header says where it lies (payload_offset, payload_length). A gzip payload ends with its unpacked size by
itself; behind all others the kernel's build puts that size in four bytes (scripts/Makefile.lib, `size_append`).
"""

from __future__ import annotations

import bz2
import lzma
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from emu.loader.image import GuestImage

LARGEST: Final = 1 << 30  # bytes; no kernel comes near, and a damaged size does not eat the host's memory

_SIZE: Final = struct.Struct("<I")
_GZIP_WRAPPER: Final = 16 + zlib.MAX_WBITS
_LZ4_MAGIC: Final = 0x184C2102
_LZ4_CHUNK: Final = 8 << 20  # unpacked size of every chunk but the last (lz4 frame format, "Legacy frame")
_HINT: Final = "; with --boot-stub the kernel unpacks itself"


class Damaged(ValueError):
    """A compressed stream is cut short or inconsistent; says how."""


# A decompressor gets the stream and the unpacked size, and gives no more than one byte beyond that size.
Decompressor = Callable[[bytes, int], bytes]


class Unpacker(Protocol):
    """What the standard library's decompressors have in common."""

    @property
    def eof(self) -> bool: ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Method:
    """One compression a kernel may be packed with; `unpack` is None where vemu has no library for it."""

    name: str
    magic: bytes
    unpack: Decompressor | None


@dataclass(frozen=True, slots=True)
class Unpacked:
    """The kernel inside: a `GuestImage` named after its file, and the compression it came in."""

    image: GuestImage
    method: str


def unpack(image: GuestImage, offset: int, length: int) -> Unpacked:
    """The kernel packed in `length` bytes at file offset `offset`.

    Raises GuestFileError where the file ends before, the compression is unknown or the stream is damaged.
    """
    packed = image.take(offset, length, "the compressed kernel")
    method = next((method for method in METHODS if packed.startswith(method.magic)), None)
    if method is None:
        start = packed[:6].hex(" ")
        raise image.error(f"unknown compression: the kernel packed at file offset {offset:#x} starts {start}{_HINT}")
    if method.unpack is None:
        raise image.error(f"the kernel packed at file offset {offset:#x} is in {method.name}, not known here{_HINT}")
    stream, size = _split(image, packed, offset, method)
    where = f"the kernel packed in {method.name} at file offset {offset:#x}"
    try:
        data = method.unpack(stream, size)
    except (Damaged, zlib.error, lzma.LZMAError, OSError, EOFError, MemoryError) as error:
        raise image.error(f"{where} is damaged: {str(error) or type(error).__name__}") from error
    if len(data) != size:
        count = "more" if len(data) > size else str(len(data))
        raise image.error(f"{where} is damaged: {count} bytes came out, but its end says {size}")
    return Unpacked(GuestImage(f"{image.path} (unpacked)", data), method.name)


def _split(image: GuestImage, packed: bytes, offset: int, method: Method) -> tuple[bytes, int]:
    """The stream proper and the unpacked size, which stands in the last four bytes."""
    if len(packed) < len(method.magic) + _SIZE.size:
        raise image.error(f"truncated: {len(packed)} bytes at file offset {offset:#x} hold no {method.name} stream")
    size: int = _SIZE.unpack_from(packed, len(packed) - _SIZE.size)[0]
    if size > LARGEST:
        raise image.error(
            f"the kernel packed at file offset {offset:#x} says it has {size} bytes: more than the {LARGEST} taken"
        )
    # to gzip the size belongs to the stream (RFC 1952, 2.3.1)
    return packed if method.name == "gzip" else packed[: -_SIZE.size], size


def _gzip(stream: bytes, size: int) -> bytes:
    return _whole(zlib.decompressobj(_GZIP_WRAPPER), stream, size)


def _bzip2(stream: bytes, size: int) -> bytes:
    return _whole(bz2.BZ2Decompressor(), stream, size)


def _xz(stream: bytes, size: int) -> bytes:
    return _whole(lzma.LZMADecompressor(lzma.FORMAT_XZ), stream, size)


def _whole(unpacker: Unpacker, stream: bytes, size: int) -> bytes:
    # one byte more than there should be: it tells too long a stream, and lets the library see the end of a right one
    data = unpacker.decompress(stream, size + 1)
    if len(data) <= size and not unpacker.eof:
        raise Damaged("the stream has no end")
    return data


def _lzma(stream: bytes, size: int) -> bytes:
    unpacker = lzma.LZMADecompressor(lzma.FORMAT_ALONE)
    # a stream that carries its size may lack an end mark, so only the count of bytes tells a whole one
    return unpacker.decompress(stream, size + 1)


def _zstd(stream: bytes, size: int) -> bytes:
    import zstandard

    try:
        with zstandard.ZstdDecompressor().stream_reader(stream) as reader:
            data: bytes = reader.read(size + 1)
    except zstandard.ZstdError as error:
        raise Damaged(str(error)) from error
    return data


def _lz4(stream: bytes, size: int) -> bytes:
    """Legacy frames: the magic, then chunks of up to 8 MiB, each behind its packed size."""
    import lz4.block

    parts: list[bytes] = []
    at, total = _SIZE.size, 0
    while at < len(stream) and total <= size:
        if at + _SIZE.size > len(stream):
            raise Damaged(f"the chunk header at {at:#x} of the stream is cut short")
        length: int = _SIZE.unpack_from(stream, at)[0]
        at += _SIZE.size
        if length == _LZ4_MAGIC:  # another frame begins
            continue
        if at + length > len(stream):
            raise Damaged(f"the chunk at {at:#x} of the stream has {length} bytes, but {len(stream) - at} follow")
        try:
            parts.append(lz4.block.decompress(stream[at : at + length], uncompressed_size=_LZ4_CHUNK))
        except lz4.block.LZ4BlockError as error:
            raise Damaged(str(error)) from error
        at += length
        total += len(parts[-1])
    return b"".join(parts)[: size + 1]


METHODS: Final = (
    Method("gzip", b"\x1f\x8b\x08", _gzip),
    Method("xz", b"\xfd7zXZ\x00", _xz),
    Method("zstd", b"\x28\xb5\x2f\xfd", _zstd),
    Method("lz4", _SIZE.pack(_LZ4_MAGIC), _lz4),
    Method("bzip2", b"BZh", _bzip2),
    Method("lzma", b"\x5d\x00\x00", _lzma),
    Method("lzo", b"\x89LZO", None),
)
