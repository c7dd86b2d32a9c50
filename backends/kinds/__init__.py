"""The kinds of backend that a configuration can name: one folder a kind, and the registry of them."""
