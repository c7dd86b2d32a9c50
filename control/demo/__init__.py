"""The demo: a whole migration on this machine without any setup, and a check of its outcome."""
