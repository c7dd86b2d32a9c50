"""Whose request it is: the sticky key, by the order of ``[proxy] sticky``, and the bucket that follows from it.

A key that lies in the fields is looked for once and its buckets kept with the block (see ``headcache``), so for a
browser's next request the split is an index into a tuple. The tuple ends with the hash states that the buckets were
computed by: where those are no longer the current ones, a migration's split has changed, and they are computed again.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from typing import Final

from proxy.board.layout import BUCKETS, SplitKey
from proxy.http1.client import Client
from proxy.http1.head import Fields
from proxy.migration import buckets

COOKIE: Final = "phasegate"
_VALUE: Final = re.compile(rb"(?:^|;)[ \t]*phasegate=([0-9A-Za-z_\-]{1,64})[ \t]*(?:;|$)")
_SET_COOKIE: Final = b"set-cookie: phasegate=%b; Path=/; Max-Age=31536000; HttpOnly; SameSite=Lax\r\n"

_KEY_BYTES: Final = 8  # of randomness, in a key that is made here

# What a block of fields that holds no key leads to.
_MINT, _ADDRESS, _RANDOM = "mint", "address", "random"


class Stickiness:
    """The rules of ``[proxy] sticky``, for the migrations of a plan."""

    def __init__(self, rules: Sequence[str], migrations: Sequence[str]) -> None:
        self._rules = rules
        self._splits = [buckets.plain(name) for name in migrations]  # until the board says otherwise
        self._states = tuple([buckets.begin(split) for split in self._splits])

    def take(self, migration: int, split: SplitKey) -> bool:
        """From now on a migration's keys fall by this split. False: they do so already."""
        if self._splits[migration] == split:
            return False
        self._splits[migration] = split
        # Always a new tuple, by which what is remembered is known to be out of date.
        self._states = tuple([buckets.begin(split) for split in self._splits])
        return True

    @staticmethod
    def wanted(rules: Sequence[str]) -> frozenset[bytes]:
        """The fields, in lower case, whose values the rules need."""
        headers = (rule.partition(":")[2].lower().encode() for rule in rules if rule.startswith("header:"))
        return frozenset(headers) | {b"cookie"}

    def bucket(self, migration: int, client: Client) -> tuple[int, bytes]:
        """The bucket of the client's current request, and the Set-Cookie line its answer must carry, if any."""
        fields = client.fields
        sticky = fields.sticky
        if sticky is None:
            sticky = fields.sticky = self._resolve(fields)
        if isinstance(sticky, tuple):
            if sticky[-1] is not self._states:
                sticky = fields.sticky = self._resolve(fields)
                assert isinstance(sticky, tuple)
            return sticky[migration], b""
        state = self._states[migration]
        if sticky is _ADDRESS:
            return buckets.bucket(state, client.client_address().encode()), b""
        if sticky is _RANDOM:
            return secrets.randbelow(BUCKETS), b""
        minted = secrets.token_hex(_KEY_BYTES).encode()
        return buckets.bucket(state, minted), _SET_COOKIE % minted

    def _resolve(self, fields: Fields) -> tuple[object, ...] | str:
        for rule in self._rules:
            kind, _, name = rule.partition(":")
            key: bytes | None = None
            if kind == "header":
                key = fields.values.get(name.lower().encode())
            elif kind == "cookie":
                match = _VALUE.search(fields.values.get(b"cookie", b""))
                if match is None:
                    return _MINT
                key = match[1]
            elif kind == "ip":
                return _ADDRESS
            elif kind == "random":
                return _RANDOM
            if key:
                return (*[buckets.bucket(state, key) for state in self._states], self._states)
        return _RANDOM
