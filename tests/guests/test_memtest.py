"""memtest86+ from Debian's package, a machine program that nobody here wrote, works through its first tests."""

from __future__ import annotations

import io
import os
import re
from pathlib import Path

import pytest
from PIL import Image

from emu import Machine, MachineConfig

# A screen update names the test that runs: tests 0, 1 and 2 are done once a later one shows.
LATER_TEST = re.compile(rb"#([3-9]|10) ")


@pytest.mark.parametrize("name", ["memtest86+x64.bin", "memtest86+ia32.bin"])
def test_first_three_tests_find_no_error(name: str) -> None:
    image = Path("/boot") / name
    if not image.exists():
        missing = f"{image} is missing: install the package memtest86+"
        if os.environ.get("VEMU_CI") == "1":
            pytest.fail(missing)
        pytest.skip(missing)
    config = MachineConfig(guest=str(image), append="console=ttyS0,115200", memory=32 << 20, timeout=120)
    serial = bytearray()

    def written(data: bytes) -> None:
        serial.extend(data)
        if LATER_TEST.search(serial, len(serial) - 256 if len(serial) > 256 else 0):
            machine.stop()

    with Machine(config, console=written) as machine:
        result = machine.run()
        screen = "\n".join(machine.screen_text())
        picture = Image.open(io.BytesIO(machine.screenshot()))
    assert result.ending.code == 130, f"{result.ending} with this screen:\n{screen}"
    assert b"Memtest86+ v" in serial
    assert set(re.findall(rb"Errors: *(\d+)", serial)) == {b"0"}
    assert "Failing Address" not in screen
    assert "Test #" in screen
    assert result.stats.native_instructions > 0.9 * result.stats.instructions
    assert picture.width >= 640
    assert len(picture.convert("RGB").getcolors(1 << 16) or ()) >= 3  # blue, white and the grey of the title
