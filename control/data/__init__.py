"""Moves and compares the data of a migration: the process that does it."""
