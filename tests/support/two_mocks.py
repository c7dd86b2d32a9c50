"""The part of a configuration that says what is migrated, for tests that are about something else."""

from __future__ import annotations

from typing import Final

TWO_MOCKS: Final = """\
[backends.mock]
kind = "mock"
[backends.other]
kind = "mock"
[migrations.phase6]
source = "mock"
target = "other"
"""  # the migration's table is the last one: a test goes on with its routes
