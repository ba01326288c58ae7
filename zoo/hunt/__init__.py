"""Searches Keras's operations and layers for differences between the backends: the command `zoo hunt`."""
