"""Measures vemu against its own interpreter, plain Unicorn and QEMU, side by side in one run."""
