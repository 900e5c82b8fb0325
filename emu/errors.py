"""The error tree of vemu, one exit code to a class.

    VemuError             (code)
    |-- UsageError          2    absurd options or combinations
    |-- GuestFileError      4    a bad guest file or configuration
    '-- NotImplementedHere 12    something vemu does not implement, named

What a guest does to itself is an exit (`emu.exits`), never one of these.
"""

from __future__ import annotations


class VemuError(Exception):
    """Base of all errors vemu reports in one sentence; `exit_code` is the documented process status."""

    exit_code = 70


class UsageError(VemuError):
    """An option is absurd, or two options exclude each other."""

    exit_code = 2


class GuestFileError(VemuError):
    """A guest image or configuration is missing, truncated, corrupt or does not fit; names the file and offset."""

    exit_code = 4


class NotImplementedHere(VemuError):
    """The guest or the user asked for something vemu does not implement, named in the message."""

    exit_code = 12
