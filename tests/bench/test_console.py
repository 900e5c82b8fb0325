"""Lines get the time at which they end; a process that hangs or fails is no figure."""

from __future__ import annotations

import sys
import time

import pytest

from emu.bench.console import Lines, NotMeasured, Timer, run_process

PYTHON = sys.executable
BUSY = "import time\nend = time.process_time() + 0.2\nwhile time.process_time() < end: pass\n"


def test_a_line_ends_when_its_end_arrives() -> None:
    clock = iter([1.0, 2.0, 3.0])
    lines = Lines(lambda: next(clock))
    for data in (b"one\r\ntw", b"o", b"\nthree\nfour"):
        lines.write(data)
    assert lines.ends == [(1.0, "one"), (3.0, "two"), (3.0, "three")]
    assert lines.tail() == "one\r\ntwo\nthree\nfour"


def test_a_process_that_ends() -> None:
    lines = Lines()
    done = run_process([PYTHON, "-c", "print('a'); raise SystemExit(3)"], lines, lambda: False, 30)
    assert (done.status, [text for _, text in lines.ends]) == (3, ["a"])
    assert done.seconds > 0


def test_a_process_that_has_said_enough_is_ended() -> None:
    lines = Lines()
    endless = "import time; print('ready', flush=True); time.sleep(60)"
    done = run_process([PYTHON, "-c", endless], lines, lambda: b"ready" in lines.text, 30)
    assert done.status is None
    assert done.seconds < 30


def test_a_process_that_hangs_or_is_not_there() -> None:
    with pytest.raises(NotMeasured, match=r"was not done after 0\.2 seconds"):
        run_process([PYTHON, "-c", "import time; time.sleep(60)"], Lines(), lambda: False, 0.2)
    with pytest.raises(NotMeasured, match="/nowhere/qemu does not run: No such file"):
        run_process(["/nowhere/qemu"], Lines(), lambda: False, 1)


@pytest.mark.skipif(sys.platform != "linux", reason="clocks of other processes are Linux's")
def test_processor_time_leaves_waiting_out() -> None:
    timer = Timer(cpu=True)
    started = timer.now()
    time.sleep(0.3)
    assert timer.now() - started < 0.2
    lines = Lines()
    waits = f"print('x', flush=True)\nimport time\ntime.sleep(0.5)\n{BUSY}print('y', flush=True)"
    done = run_process([PYTHON, "-c", waits], lines, lambda: False, 30, timer)
    (first, _), (second, _) = lines.ends
    assert 0.2 <= second - first < 0.5
    assert 0.2 <= done.seconds < 0.7
