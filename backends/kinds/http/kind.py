"""An HTTP origin as a kind of backend: how it is reached, and checks of its settings beyond their types. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from backends.kinds.http.settings import Http
from backends.origin import Reach, origin_mistakes, place_tls

_PATH: Final = re.compile(r"/[\x21-\x7e]*")


def reach(backend: Http) -> Reach:
    """How it is reached."""
    return Reach(backend.origin, backend.deadline_s, backend.tls, backend.health)


def mistakes(backend: Http) -> Iterator[tuple[str, str]]:
    """What is wrong with its settings, as (key, what was expected and found)."""
    yield from origin_mistakes(backend.origin, backend.tls)
    if backend.health is not None and not _PATH.fullmatch(backend.health):
        yield "health", f'expected a path such as "/healthz", found "{backend.health}"'


def place_files(backend: Http, place: Callable[[str], str]) -> Http:
    """The settings with ``place`` applied to each file path in them."""
    return msgspec.structs.replace(backend, tls=place_tls(backend.tls, place))


def mend(backend: Http) -> str:
    """What to do when its health check fails."""
    return f"Start it, or correct its origin ({backend.origin})."
