"""Guest image loaders: flat binary, boot sector, ELF, Multiboot 1, Linux; the entry is `emu.loader.detect.load`."""
