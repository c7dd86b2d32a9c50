"""The address of the emulator that the environment names, checked before anybody connects to it."""

from __future__ import annotations

import os
import re
from typing import Final

from backends.kinds.firestore.settings import EMULATOR

_HOST_PORT: Final = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]]+):(\d{1,5})")


def emulator_address() -> str | None:
    """``HOST:PORT`` of the emulator; None where the real service is meant. Raises ``ValueError`` in words."""
    found = os.environ.get(EMULATOR)
    if not found:
        return None
    match = _HOST_PORT.fullmatch(found)
    if match is None or not 0 < int(match[1]) <= 65535:
        bare = re.sub(r"^[a-z]+://|/+$", "", found)
        meant = f'; write "{bare}"' if bare != found and _HOST_PORT.fullmatch(bare) else ""
        raise ValueError(
            f"the environment variable {EMULATOR}: expected HOST:PORT such as "
            f'"127.0.0.1:8085", found "{found}"{meant}'
        )
    return found
