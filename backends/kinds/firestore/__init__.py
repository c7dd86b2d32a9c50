"""Firestore over raw gRPC stubs: value codec, live view, store."""

import os

# gRPC's core, which is C++, writes to standard error by itself, and by default tells of connections that end as they
# should. It reads this when it is imported, which nothing does before this package. Its errors are told all the same.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
