"""The demo: a whole migration on this machine with nothing to set up, and a check of the outcome."""
