"""The kinds of backend that a configuration can name: one folder per kind, and their registry."""
