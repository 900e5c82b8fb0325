"""What disk images are kept in: files of the host, raw or qcow2, and the memory that takes what must not reach them."""
