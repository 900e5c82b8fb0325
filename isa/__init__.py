"""Facts about guest instruction sets, independent of any monitor."""
