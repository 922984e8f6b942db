"""Raw files, or a generator, turned into one `Dataset` record (NumPy; runs once)."""
