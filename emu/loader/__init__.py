"""Guest image loaders: flat binary, boot sector, ELF, Multiboot 1, Linux, PVH; the entry is `detect.load`."""
