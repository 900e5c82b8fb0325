"""Virtual devices: each sees offsets in its own range and holds lines, never the CPU."""
