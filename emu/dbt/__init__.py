"""The translator's machinery: discovery of blocks, the code cache and chaining."""
