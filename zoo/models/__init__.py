"""The architectures, one file a family, in the order of the primer."""
