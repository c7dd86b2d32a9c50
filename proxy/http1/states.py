"""The states of a client's connection and the events between them: one table, ``TRANSITIONS``. Pure.

    HEAD    waiting for a request's head; a part of it may have arrived
    BODY    the head is complete, the request's body is arriving: it is sent to an origin or collected
    BUSY    the request is complete, its answer is awaited or being written
    TUNNEL  the answer was 101: bytes of another protocol pass both ways until both sides have ended
    LINGER  the last answer is written; further bytes are discarded until the client closes
    CLOSED  the transport is gone

At most one request is current: from its complete head until its whole answer is written. What the client sends in the
meantime is held, and read in the state ``HEAD`` that follows. Three rules hold in every row:

- An answer may be complete before its request is (in ``BODY``). Then the start of the next request is unknown, so the
  only next state is ``LINGER``.
- Only the end of the transport leaves ``LINGER``. The state exists because closing at once may send a reset, which
  destroys an answer that the client has received but not read (RFC 9112 section 9.6).
- ``LOST`` leaves every state: a reset (for example after the deadline of a half-written answer) only asks the
  transport to end, and the state changes when it has. Until then the answer may still be completed, without effect.

The same event has a different meaning in each state:

              data from the client   FIN from the client               the deadline passes
    HEAD      read as a head         closes, after held requests       408 if a part of a head has arrived, else close
                                     are answered
    BODY      more of the body       closes                            408 if the client is slow, 504 if the origin is
    BUSY      held                   recorded: the client may wait     504
                                     for its answer or be gone (probed)
    TUNNEL    sent to the origin     sent to the origin                reset
    LINGER    discarded              closes                            reset, unless the client is still receiving

After an answer has begun, no other can be sent instead: then the deadline, and every failure, causes a reset, so that
a truncated answer never looks complete.

Conditions that exist in several states are flags of the connection: reading is paused (``paused``), the write buffer
is full (``writing_paused``), the client has sent FIN (``eof``), an answer has begun (``begun``).
"""

from __future__ import annotations

from typing import Final, NamedTuple

# Plain numbers, which compiled code treats as literals. Events are multiples of 8, so ``state + event`` is unique.
HEAD: Final = 0
BODY: Final = 1
BUSY: Final = 2
TUNNEL: Final = 3
LINGER: Final = 4
CLOSED: Final = 5
STATES: Final = {HEAD: "head", BODY: "body", BUSY: "busy", TUNNEL: "tunnel", LINGER: "linger", CLOSED: "closed"}

REQUEST: Final = 8  # a head is complete, of a request without a body
REQUEST_BEGUN: Final = 16  # a head is complete, and a body follows
BODY_ENDED: Final = 24
ANSWERED: Final = 32  # the whole answer is written, and another request may follow
SWITCHED: Final = 40  # the origin changed protocols, and its 101 is written
GAVE_UP: Final = 48  # no further request is accepted: the last answer is written, or there was nothing to answer
LOST: Final = 56  # the transport has ended
EVENTS: Final = {
    REQUEST: "request",
    REQUEST_BEGUN: "request begun",
    BODY_ENDED: "body ended",
    ANSWERED: "answered",
    SWITCHED: "switched",
    GAVE_UP: "gave up",
    LOST: "lost",
}


class Row(NamedTuple):
    """One line of the table: in ``state``, ``event`` leads to ``to``."""

    state: int
    event: int
    to: int


TRANSITIONS: Final = (
    Row(HEAD, REQUEST, BUSY),
    Row(HEAD, REQUEST_BEGUN, BODY),
    Row(HEAD, GAVE_UP, LINGER),  # a refused head, an idle connection, a client that will send no more
    Row(HEAD, LOST, CLOSED),
    Row(BODY, BODY_ENDED, BUSY),
    Row(BODY, GAVE_UP, LINGER),  # a refused body, or an answer that was complete before the body
    Row(BODY, LOST, CLOSED),
    Row(BUSY, ANSWERED, HEAD),
    Row(BUSY, SWITCHED, TUNNEL),
    Row(BUSY, GAVE_UP, LINGER),  # the answer said "connection: close"
    Row(BUSY, LOST, CLOSED),
    Row(TUNNEL, GAVE_UP, LINGER),  # the origin has closed; the client has not yet
    Row(TUNNEL, LOST, CLOSED),
    Row(LINGER, LOST, CLOSED),
)

# The table for look-ups. A pair without a row is a bug, and raises ``KeyError``.
NEXT: Final = {row.state + row.event: row.to for row in TRANSITIONS}
