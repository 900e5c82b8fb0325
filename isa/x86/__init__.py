"""The x86 instruction set: state, decoding, semantics, paging and interrupts."""
