"""Benchmarks: guests under vemu's engines, plain Unicorn and QEMU side by side, and the costs of single events."""
