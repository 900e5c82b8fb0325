"""The kernel packed in a bzImage: every compression, the entries of what comes out, and damage of every kind."""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
from collections.abc import Callable
from typing import Any

import lz4.block
import pytest
import zstandard

from emu.errors import GuestFileError
from emu.loader import payload
from emu.loader.image import GuestImage
from guests.debian import KERNELS
from isa.x86.state import CS, DS, RBX, RSI

Loading = Callable[..., Any]
CHUNK = 8 << 20
LZ4_MAGIC = bytes.fromhex("02214c18")


def lz4_legacy(data: bytes) -> bytes:
    made = LZ4_MAGIC
    for at in range(0, len(data), CHUNK):
        block = lz4.block.compress(data[at : at + CHUNK], store_size=False)
        made += struct.pack("<I", len(block)) + block
    return made


def sized(packed: bytes, data: bytes) -> bytes:
    return packed + struct.pack("<I", len(data))


PACK: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "xz": lambda data: sized(
        # as the kernel's build packs it: the x86 filter in front, CRC-32 behind (scripts/xz_wrap.sh)
        lzma.compress(
            data, check=lzma.CHECK_CRC32, filters=[{"id": lzma.FILTER_X86}, {"id": lzma.FILTER_LZMA2, "preset": 6}]
        ),
        data,
    ),
    "lzma": lambda data: sized(lzma.compress(data, format=lzma.FORMAT_ALONE), data),
    "bzip2": lambda data: sized(bz2.compress(data), data),
    "zstd": lambda data: sized(zstandard.ZstdCompressor(write_content_size=False).compress(data), data),
    "lz4": lambda data: sized(lz4_legacy(data), data),
}
CONTENT = b"".join(struct.pack("<I", number * number & 0xFFFFFFFF) for number in range(20_000))


def unpacked(packed: bytes, before: int = 0, behind: int = 0) -> bytes:
    image = GuestImage("vmlinuz", b"\xaa" * before + packed + b"\xbb" * behind)
    return payload.unpack(image, before, len(packed)).image.data


@pytest.mark.parametrize("method", PACK)
def test_every_compression_gives_the_content_back(method: str) -> None:
    packed = PACK[method](CONTENT)
    assert unpacked(packed) == CONTENT
    assert unpacked(packed, before=100, behind=16) == CONTENT


def test_lz4_legacy_in_several_chunks_and_frames() -> None:
    data = bytes(range(256)) * (CHUNK // 256) + CONTENT
    assert unpacked(PACK["lz4"](data)) == data
    assert unpacked(sized(lz4_legacy(CONTENT) + lz4_legacy(CONTENT), CONTENT * 2)) == CONTENT * 2


@pytest.mark.parametrize("method", PACK)
def test_a_stream_cut_short_is_one_sentence(method: str) -> None:
    packed = PACK[method](CONTENT)
    ends = packed[-4:]
    for keep in (len(packed) // 2, len(packed) - 40):
        with pytest.raises(GuestFileError, match=rf"^vmlinuz: the kernel packed in {method} at file offset 0x0 is dam"):
            unpacked(packed[:keep] + ends)
    with pytest.raises(GuestFileError, match="truncated: the compressed kernel needs"):
        payload.unpack(GuestImage("vmlinuz", packed), 1, len(packed))
    with pytest.raises(GuestFileError, match=r"^vmlinuz: truncated"):
        unpacked(packed[:6])


@pytest.mark.parametrize("method", PACK)
def test_a_stream_of_another_size_than_its_end_says(method: str) -> None:
    stream = PACK[method](CONTENT)[:-4]
    for size in (len(CONTENT) - 1, len(CONTENT) + 1, 0):
        with pytest.raises(GuestFileError, match=f"packed in {method} at file offset 0x0 is damaged"):
            unpacked(stream + struct.pack("<I", size))
    with pytest.raises(GuestFileError, match="says it has 4294967295 bytes: more than the 1073741824 taken"):
        unpacked(stream + b"\xff" * 4)


def test_a_flipped_byte_in_a_checked_stream_is_seen() -> None:
    for method in ("gzip", "xz", "bzip2"):
        packed = bytearray(PACK[method](CONTENT))
        packed[len(packed) // 2] ^= 0x10
        with pytest.raises(GuestFileError, match="is damaged"):
            unpacked(bytes(packed))


@pytest.mark.parametrize(
    ("packed", "told"),
    [
        (b"PK\3\4 and more", "unknown compression: the kernel packed at file offset 0x0 starts 50 4b 03 04 20 61; "),
        (b"\x89LZO and more", "is in lzo, not known here; with --boot-stub the kernel unpacks itself"),
        (LZ4_MAGIC + b"\1\0", "truncated: 6 bytes at file offset 0x0 hold no lz4 stream"),
        (LZ4_MAGIC + b"\1\0" + bytes(4), "chunk header at 0x4 of the stream is cut short"),
        (LZ4_MAGIC + b"\xff\0\0\0abc" + b"\4\0\0\0", "chunk at 0x8 of the stream has 255 bytes, but 3 follow"),
    ],
)  # fmt: skip
def test_what_cannot_be_unpacked_is_named(packed: bytes, told: str) -> None:
    with pytest.raises(GuestFileError, match=f"^vmlinuz: .*{told}"):
        unpacked(packed)


# -- the kernel started --------------------------------------------------------------------------------------------


def test_a_64_bit_kernel_starts_at_its_own_entry(loading: Loading, samples: Any) -> None:
    for method, pack in PACK.items():
        one = loading(samples.linux(packed=pack(samples.vmlinux())), append="quiet", initrd=b"\x5a" * 100)
        state = one.state
        assert one.guest.description == f"Linux boot protocol 2.12, 64-bit kernel unpacked from {method}"
        assert (one.guest.format, one.guest.entry, state.rip, state.mode) == ("linux", 0x200000, 0x200000, 64)
        assert (state.segs[CS].selector, state.segs[DS].selector) == (0x10, 0x18)
        assert one.memory.read_bytes(0x200000, 3) == b"\xf4\xeb\xfd"
        assert one.memory.read(0x100000, 4) == 0  # the stub is not there
        zero_page = state.regs[RSI]
        assert one.memory.read_bytes(zero_page + 0x202, 4) == b"HdrS"
        assert one.memory.read_bytes(one.memory.read(zero_page + 0x228, 4), 6) == b"quiet\0"
        assert one.memory.read_bytes(one.memory.read(zero_page + 0x218, 4), 100) == b"\x5a" * 100
        assert one.guest.symbols.lookup(0x200000) == ("start", 0)


def test_a_32_bit_kernel_starts_without_paging(loading: Loading, samples: Any) -> None:
    one = loading(samples.linux(packed=gzip.compress(samples.vmlinux(32)), xloadflags=0))
    assert (one.state.rip, one.state.mode, one.state.cr0 >> 31) == (0x200000, 32, 0)
    assert (one.state.segs[CS].selector, one.state.segs[DS].selector) == (0x10, 0x18)
    assert one.memory.read(one.state.regs[RSI] + 0x202, 4) == int.from_bytes(b"HdrS", "little")
    assert one.state.regs[RBX] == 0


def test_the_boot_stub_runs_where_it_is_wanted(loading: Loading, samples: Any) -> None:
    image = samples.linux(packed=gzip.compress(samples.vmlinux()))
    assert loading(image, boot_stub=True).state.rip == 0x100200
    other = loading(image, mode=32)  # a 64-bit kernel has no entry of 32 bits, its stub has
    assert (other.state.rip, other.state.mode) == (0x100000, 32)
    assert loading(samples.linux(packed=b"damaged"), boot_stub=True).state.rip == 0x100200
    old = samples.linux(packed=gzip.compress(samples.vmlinux()), version=0x207)  # before payloads were described
    assert loading(old).state.mode == 16


def test_what_is_packed_must_be_a_kernel(loading: Loading, samples: Any) -> None:
    with pytest.raises(
        GuestFileError, match=r"guest.img \(unpacked\): bytes 6e 6f 20 65 at .* an ELF file starts with"
    ):
        loading(samples.linux(packed=gzip.compress(b"no elf file")))
    with pytest.raises(GuestFileError, match="unknown compression"):
        loading(samples.linux(packed=b"no compression"))
    with pytest.raises(GuestFileError, match="truncated: the compressed kernel needs 9999 bytes"):
        loading(samples.linux(packed=gzip.compress(samples.vmlinux()), payload_length=9999))
    with pytest.raises(GuestFileError, match=r"goes to 0x80000, but kernels of its kind lie above 0x100000"):
        loading(samples.linux(packed=gzip.compress(samples.elf(physical=0x80000))))
    with pytest.raises(GuestFileError, match="its initrd of 8000000 bytes does not fit between the kernel's end"):
        loading(samples.linux(packed=gzip.compress(samples.vmlinux())), initrd=bytes(8_000_000))


@pytest.mark.parametrize("bits", [32, 64])
def test_a_bare_kernel_gets_a_setup_header(loading: Loading, samples: Any, bits: int) -> None:
    one = loading(samples.vmlinux(bits), append="quiet", initrd=bytes(10))
    assert (one.guest.format, one.state.mode, one.state.rip) == ("linux", bits, 0x200000)
    zero_page = one.state.regs[RSI]
    assert one.memory.read(zero_page + 0x1FE, 2) == 0xAA55
    assert one.memory.read_bytes(zero_page + 0x202, 6) == b"HdrS\x0c\x02"
    assert (one.memory.read(zero_page + 0x211, 1), one.memory.read(zero_page + 0x21C, 4)) == (1, 10)
    assert one.memory.read(zero_page + 0x1E8, 1) == len(one.memory.e820())
    with pytest.raises(GuestFileError, match="does not start in"):
        loading(samples.vmlinux(bits), mode=96 - bits)


def test_a_bare_kernel_is_known_by_its_banner_too(loading: Loading, samples: Any) -> None:
    banner = b"\xf4\xeb\xfdLinux version 4.9.0 (someone@somewhere)"
    assert loading(samples.elf(code=banner)).guest.format == "linux"
    assert loading(samples.elf(code=banner), format="elf").guest.format == "elf"
    assert loading(samples.elf(code=b"\xf4\xeb\xfdNo Linux version at all")).guest.format == "elf"
    with pytest.raises(GuestFileError, match="an ELF file, but no Linux kernel"):
        loading(samples.elf(), format="linux")


def test_acpi_s_root_stands_in_the_zero_page(loading: Loading, samples: Any) -> None:
    for image in (samples.linux(), samples.linux(packed=gzip.compress(samples.vmlinux())), samples.vmlinux()):
        one = loading(image, rsdp=0xE0000)
        assert one.memory.read(one.state.regs[RSI] + 0x70, 8) == 0xE0000
        one = loading(image)
        assert one.memory.read(one.state.regs[RSI] + 0x70, 8) == 0


@pytest.mark.parametrize(("name", "bits", "method"), [("cloud", 64, "lz4"), ("generic", 64, "xz"), ("686", 32, "xz")])
def test_debian_s_kernels(loading: Loading, name: str, bits: int, method: str) -> None:
    path = KERNELS[name].image
    if not path.exists():
        pytest.skip(f"{path} is missing: 'python -m guests.linux --kernel {name}' fetches it")
    one = loading(path.read_bytes(), megabytes=128)
    assert one.guest.description.endswith(f", {bits}-bit kernel unpacked from {method}")
    assert (one.state.mode, one.state.rip) == (bits, 0x1000000)  # CONFIG_PHYSICAL_START
