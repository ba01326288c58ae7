"""Processes: one framework each, and what the machine has."""
