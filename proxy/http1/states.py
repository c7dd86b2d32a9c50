"""The states of a client's connection and what leads from one to another: one table, ``TRANSITIONS``. Pure.

    HEAD    the head of a request is awaited; a part of one may have come
    BODY    a head was taken, and the request's body still comes: it goes on to an origin or is gathered
    BUSY    the request is here whole, and its answer is awaited or on its way
    TUNNEL  the answer was 101: bytes of another protocol pass both ways until both sides have ended
    LINGER  the last answer is written; what still comes is thrown away until the client has seen the end
    CLOSED  the transport is gone

At most one request is current: from the event that takes its head until its answer is written whole. What the client
sends in the meantime is held, and taken by the state ``HEAD`` that follows. Three rules hold in every row:

- An answer may be complete before its request is (in ``BODY``). Where the next request would begin is then unknown,
  so the only way on is ``LINGER``.
- ``LINGER`` is left by the transport's end alone. It exists because closing at once may send a reset, which takes
  away an answer that the client has received but not read (RFC 9112 section 9.6).
- Every state can be left by ``LOST``: a reset (the deadline of an answer half written, say) only asks the transport
  to end, and the state changes when it has. Until then an answer under way may still be completed, to no effect.

What happens to a connection means something else in each state:

              data from the client   FIN from the client               the deadline passes
    HEAD      read as a head         ends it, once what is held        408 where a part of a head came, else the end
                                     is answered
    BODY      more of the body       ends it                           408 where the client is waited for, else 504
    BUSY      held                   noted: it may wait for its        504
                                     answer, or be gone (probed)
    TUNNEL    goes to the origin     goes to the origin                reset
    LINGER    thrown away            ends it                           reset, unless the client still takes its answer

Where an answer has begun, no other can be sent in its place: then the deadline, and every failure, is a reset, so
that what was cut short never looks complete.

What is true across states is no state but a flag of the connection: that it is not read (``paused``), that the client
takes no more for now (``writing_paused``), that it has sent FIN (``eof``), that an answer has begun (``begun``).
"""

from __future__ import annotations

from typing import Final, NamedTuple

# Plain numbers: compiled code takes them as literals. Events are multiples of 8, so ``state + event`` names the pair.
HEAD: Final = 0
BODY: Final = 1
BUSY: Final = 2
TUNNEL: Final = 3
LINGER: Final = 4
CLOSED: Final = 5
STATES: Final = {HEAD: "head", BODY: "body", BUSY: "busy", TUNNEL: "tunnel", LINGER: "linger", CLOSED: "closed"}

REQUEST: Final = 8  # a head was taken, of a request without a body
REQUEST_BEGUN: Final = 16  # a head was taken, and a body follows
BODY_ENDED: Final = 24
ANSWERED: Final = 32  # the answer is written whole, and another request may follow
SWITCHED: Final = 40  # the origin changed protocols, and its 101 is written
GAVE_UP: Final = 48  # no further request is taken: the last answer is written, or there was nothing to answer
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
    Row(BODY, GAVE_UP, LINGER),  # a refused body, or an answer that came before the body was here
    Row(BODY, LOST, CLOSED),
    Row(BUSY, ANSWERED, HEAD),
    Row(BUSY, SWITCHED, TUNNEL),
    Row(BUSY, GAVE_UP, LINGER),  # the answer said "connection: close"
    Row(BUSY, LOST, CLOSED),
    Row(TUNNEL, GAVE_UP, LINGER),  # the origin has ended; the client has yet to see it
    Row(TUNNEL, LOST, CLOSED),
    Row(LINGER, LOST, CLOSED),
)

# The table as it is looked up. A pair without a row is a mistake of ours, and raises ``KeyError``.
NEXT: Final = {row.state + row.event: row.to for row in TRANSITIONS}
