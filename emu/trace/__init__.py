"""Exit traces: records of exits as a stream, and what is made of them: tables, files, comparisons, flame graphs."""
