"""The architectures, one file per family, in the order of the notebooks."""
