"""The settings of a Firestore: ``[backends.NAME]`` with ``kind = "firestore"``. Pure."""

from __future__ import annotations

from typing import Final

import msgspec

from backends.backend import Backend
from backends.durations import Duration

EMULATOR: Final = "FIRESTORE_EMULATOR_HOST"  # environment variable: the emulator's address; unset: the real service


class Firestore(Backend, msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="firestore"):
    """Google Cloud Firestore, or its emulator if ``FIRESTORE_EMULATOR_HOST`` is set."""

    project: str  # the Google Cloud project
    database: str = "(default)"  # the database in the project
    prefix: str = ""  # before the name of every collection, such as `pg_`, where another app uses the database too
    # of one request; the source answers a read that takes longer
    deadline_s: Duration = msgspec.field(default=Duration(1.0), name="deadline")
    cache: str = "memory"  # of query results: `memory` of each process, or a `redis://` address that machines share
    # the greatest age at which the live view may still answer
    view_max_age_s: Duration = msgspec.field(default=Duration(90.0), name="view_max_age")
