"""Firestore's messages are there without the client library, and do not stand in its way."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import sys
from backends.kinds.firestore.store import FirestoreStore
assert not any(name.startswith(("requests", "google.cloud.firestore_v1.services")) for name in sys.modules)
from backends.kinds.firestore.messages import document as ours
from google.cloud import firestore
from google.cloud.firestore_v1.types import document as theirs
assert ours is theirs
assert firestore.AsyncClient
"""


def test_the_client_library_is_not_imported_and_can_be() -> None:
    subprocess.run([sys.executable, "-c", SCRIPT], check=True, timeout=60)
