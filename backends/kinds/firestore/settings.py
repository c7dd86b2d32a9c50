"""The settings of a Firestore: ``[backends.NAME]`` with ``kind = "firestore"``. Pure."""

from __future__ import annotations

from typing import Final

import msgspec

from backends.backend import Backend
from backends.durations import Duration

EMULATOR: Final = "FIRESTORE_EMULATOR_HOST"  # where this is set in the environment, the emulator there is used


class Firestore(Backend, msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="firestore"):
    """Google Cloud Firestore, or its emulator where ``FIRESTORE_EMULATOR_HOST`` says so."""

    project: str  # the Google Cloud project
    database: str = "(default)"  # the database in it
    # of a request to it; a read that takes longer is answered by the source
    deadline_s: Duration = msgspec.field(default=Duration(1.0), name="deadline")
    cache: str = "memory"  # of query results: this process's `memory`, or a `redis://` address that machines share
    # how old the live view may be and still answer
    view_max_age_s: Duration = msgspec.field(default=Duration(90.0), name="view_max_age")
