"""``register`` for a program that adds adapters and nothing else. ``backends.extensions`` does the work."""

from backends.extensions import register

__all__ = ["register"]
