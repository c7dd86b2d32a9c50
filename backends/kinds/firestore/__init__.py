"""Firestore over raw gRPC stubs: value codec, live view, store."""

import os

# gRPC's C++ core logs to standard error by itself, by default also connections that end normally. With ERROR it logs
# errors only. It reads the variable when it is imported, and nothing imports it before this package.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
