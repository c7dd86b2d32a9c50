"""Changes: the effect of a write, as values that apply to any store, any number of times, in any order. Pure.

An adapter answers a write by applying a change to its own store; then the same change is applied to the other store.
Each kind of change is safe to repeat: by a fixed id, by a marker created in the same commit, or by a rule that says
which of two states of a document is newer.

A change holds no functions, so that it can wait in a file: it is encoded with the tag of its kind. ``install`` has
the kinds and the rules that adapters add; a process that reads changes must have the same adapters as the one that
wrote them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol, TypeAlias, Union

import msgspec

from backends.documents.port import (
    Context,
    Document,
    DocumentStore,
    Fields,
    Mutation,
    Precondition,
    Reason,
    Rejected,
    create,
    merge,
)
from backends.documents.semantics import applied, same
from backends.errors import Fault, FaultKind

ATTEMPTS: Final = 8  # of a read and a conditional write, when other writers win the race

# Whether the first state of a document is newer than the second, and so replaces it.
Newer: TypeAlias = Callable[[Fields, Fields], bool]

# What two states of a document make together, when two writers have changed it at the same time on two sides. It must
# be the same in either order, and the same again when it is joined with one of the two once more.
Join: TypeAlias = Callable[[Fields, Fields], Fields]


class StateRule(NamedTuple):
    """How two states of a document become one: field by field, or the newer one replaces the other."""

    join: Join
    by_field: bool

    @classmethod
    def of_newer(cls, newer: Newer) -> StateRule:
        """The newer of two states replaces the other; the second one stays where neither is newer."""
        return cls(lambda one, other: one if newer(one, other) else other, False)


class Documents(Protocol):
    """Stored documents by path."""

    def get(self, path: str) -> Document | None:
        """The document; None if it does not exist, or was not read."""

    def __contains__(self, path: object) -> bool:
        """Whether it was read: then ``get`` says whether it exists."""


class Change(msgspec.Struct, frozen=True, array_like=True):
    """The effect of a write, to be applied to every store.

    A kind of change is a subclass with a tag of its own: ``class Ingest(Change, frozen=True, tag="shop.ingest")``.
    Its fields must be of types that msgspec decodes. An adapter that defines one lists it in ``Adapter.changes``.
    """

    @property
    def steps(self) -> tuple[Change, ...]:
        """The changes that it consists of, in the order in which they are applied: one commit each."""
        return (self,)

    @property
    def own(self) -> Change:
        """What the handler's own store gets of a step, where that is simpler: the handler has just looked at it."""
        return self

    @property
    def documents(self) -> tuple[str, ...]:
        """The paths it writes, for the log; those that matter most to a person first."""
        raise NotImplementedError

    @property
    def group(self) -> str:
        """Changes of one group write the same documents often, such as counters, and are best sent together.

        In a group the order is kept; empty where it is of no group.
        """
        return ""

    @property
    def reads(self) -> tuple[str, ...]:
        """The documents that ``plan`` has to be given. The commit is made only if they are as they were read."""
        return ()

    @property
    def traces(self) -> tuple[str, ...]:
        """The documents that show whether a store holds the change."""
        raise NotImplementedError

    def plan(self, stored: Documents) -> Sequence[Mutation]:
        """The writes of one commit that apply it, without what ``stored`` shows to be there already.

        ``stored`` has the documents of ``reads``; those of ``traces`` only after a commit was refused, so a write
        that must not happen twice comes with a precondition.
        """
        raise NotImplementedError

    def held(self, stored: Documents) -> Change | None:
        """What of it the store holds, whose documents of ``traces`` are given; None if it holds nothing of it."""
        raise NotImplementedError

    @property
    def coarser(self) -> Change | None:
        """What to apply where a store refuses the change as invalid; None if it is then refused for good."""
        return None

    def forget(self) -> None:
        """Drop what was worked out and can be worked out again: it waits with many others."""

    async def apply(self, store: DocumentStore, ctx: Context) -> None:
        """Apply it, unless it is applied already. Raises ``Fault``; ``Rejected`` only where no retry can succeed, or
        where a document is missing that it demands."""
        for step in self.steps:
            await apply_step(step, store, ctx)


class Put(Change, frozen=True, tag="put"):
    """Writes whose outcome does not depend on what is stored."""

    mutations: tuple[Mutation, ...]

    @property
    def documents(self) -> tuple[str, ...]:
        """As ``Change.documents``."""
        return tuple(mutation.path for mutation in self.mutations)

    @property
    def traces(self) -> tuple[str, ...]:
        """As ``Change.traces``."""
        return self.documents

    def plan(self, stored: Documents) -> Sequence[Mutation]:
        """As ``Change.plan``."""
        return self.mutations

    def held(self, stored: Documents) -> Change | None:
        """As ``Change.held``: the writes that would change nothing."""
        held = tuple(mutation for mutation in self.mutations if _is_applied(mutation, stored.get(mutation.path)))
        return Put(held) if held else None


class Once(Change, frozen=True, tag="once"):
    """Writes that must happen exactly once, such as increments: the same commit creates ``marker``."""

    marker: str
    fields: Fields
    mutations: tuple[Mutation, ...]

    @property
    def group(self) -> str:
        """As ``Change.group``: what is below one document of a first collection."""
        return root(self.marker)

    @property
    def documents(self) -> tuple[str, ...]:
        """As ``Change.documents``."""
        return (*(mutation.path for mutation in self.mutations), self.marker)

    @property
    def traces(self) -> tuple[str, ...]:
        """As ``Change.traces``."""
        return (self.marker,)

    def plan(self, stored: Documents) -> Sequence[Mutation]:
        """As ``Change.plan``."""
        return () if stored.get(self.marker) is not None else (create(self.marker, self.fields), *self.mutations)

    def held(self, stored: Documents) -> Change | None:
        """As ``Change.held``: all of it, where the marker is."""
        return self if stored.get(self.marker) is not None else None


class Newest(Change, frozen=True, tag="newest"):
    """A document's new state, joined with the one that the store holds by the rule of its collection.

    The rule is in ``Adapter.newer`` or ``Adapter.joins``, under the collection's name. ``fields`` are all that the
    rule is about; other fields of the document, such as counters, stay as they are.
    """

    path: str
    fields: Fields

    @property
    def group(self) -> str:
        """As ``Change.group``: with what is below the document."""
        return root(self.path)

    @property
    def documents(self) -> tuple[str, ...]:
        """As ``Change.documents``."""
        return (self.path,)

    @property
    def reads(self) -> tuple[str, ...]:
        """As ``Change.reads``."""
        return (self.path,)

    @property
    def traces(self) -> tuple[str, ...]:
        """As ``Change.traces``."""
        return (self.path,)

    def plan(self, stored: Documents) -> Sequence[Mutation]:
        """As ``Change.plan``. Raises ``LookupError`` if no adapter has a rule for the collection."""
        found = stored.get(self.path)
        added = self._added({} if found is None else found.fields)
        return (merge(self.path, added),) if found is None or added else ()

    def held(self, stored: Documents) -> Change | None:
        """As ``Change.held``: all of it, or nothing.

        A state that another one has replaced is not held: the other one reaches every store by itself and wins there.
        One that was joined with others is held while the stored state has all that it adds to it.
        """
        found = stored.get(self.path)
        if not rule_of(self.path).by_field:
            return self if _is_applied(merge(self.path, self.fields), found) else None
        return self if found is not None and not self._added(found.fields) else None

    def _added(self, stored: Fields) -> Fields:
        """The fields that the state changes in the stored document."""
        rule = rule_of(self.path)
        joined = rule.join(self.fields, stored) if stored else self.fields
        return {name: value for name, value in joined.items() if name not in stored or not same(value, stored[name])}


class All(Change, frozen=True, tag="all"):
    """Changes applied in order. If it stops half-way, applying it again completes it."""

    changes: tuple[Any, ...]  # each a Change

    @property
    def steps(self) -> tuple[Change, ...]:
        """As ``Change.steps``."""
        return tuple(step for change in self.changes for step in change.steps)

    @property
    def documents(self) -> tuple[str, ...]:
        """As ``Change.documents``."""
        return tuple(path for change in self.changes for path in change.documents)


def _is_applied(mutation: Mutation, document: Document | None) -> bool:
    """Whether the document is as the mutation would make it."""
    return applied(document, mutation, 0) is document


# -------------------------------------------------------------------------------------------------- kinds and rules

BUILT_IN: Final[tuple[type[Change], ...]] = (Put, Once, Newest)  # what a log may hold; ``All`` is logged by its steps

_rules: dict[str, StateRule] = {}
_encoder: Final = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Change] = msgspec.msgpack.Decoder()


def install(kinds: Sequence[type[Change]], rules: Mapping[str, StateRule]) -> None:
    """Make these, beside the built-in ones, the kinds that can be decoded; ``rules`` are by collection."""
    global _decoder
    # A union of types that are known only now: no annotation can say it.
    _decoder = msgspec.msgpack.Decoder(Union[(*BUILT_IN, *kinds)])
    _rules.clear()
    _rules.update(rules)


install((), {})


def kind_problem(kind: object, owner: str) -> str | None:
    """What is wrong with a kind of change that the adapter ``owner`` lists, in words; None where nothing is."""
    tag = getattr(getattr(kind, "__struct_config__", None), "tag", None)
    if not (isinstance(kind, type) and issubclass(kind, Change)):
        return f"{kind!r} is no subclass of Change"
    if not (isinstance(tag, str) and tag.startswith(f"{owner}.")):
        example = f"{owner}.{kind.__name__.lower()}"
        return f'{kind.__name__}: expected a tag that begins with the adapter\'s name, such as tag="{example}"'
    try:
        msgspec.msgpack.Decoder(kind)
    except (TypeError, NameError) as error:
        return f"{kind.__name__}: cannot be decoded: {str(error).splitlines()[0]}"
    return None


def root(path: str) -> str:
    """The document of a first collection that the path is, or is below: ``scans/7`` of ``scans/7/results/3``."""
    end = path.find("/", path.find("/") + 1)
    return path if end < 0 else path[:end]


def rule_of(path: str) -> StateRule:
    """The rule of the document's collection. Raises ``LookupError``, which says what is missing."""
    pattern, _, rest = path.partition("/")
    if "/" in rest:
        pattern = "/".join("*" if at % 2 else name for at, name in enumerate(path.split("/")[:-1]))
    try:
        return _rules[pattern]
    except KeyError:
        expected = "expected a rule in Adapter.newer or Adapter.joins"
        message = f"no adapter says which of two states is newer in {pattern}; {expected}"
        raise LookupError(message) from None


def encode(step: Change) -> bytes:
    """The step as MessagePack. Raises ``ValueError``, ``TypeError``, ``OverflowError`` or ``RecursionError`` for
    values that no store takes."""
    return _encoder.encode(step)


def decode(body: bytes | memoryview) -> Change:
    """What ``encode`` wrote. Raises ``msgspec.DecodeError``: it is damaged, or of a kind that no adapter has here."""
    return _decoder.decode(body)


# -------------------------------------------------------------------------------------------------- applying


async def write(change: Change, store: DocumentStore, ctx: Context, *, commit: Sequence[Mutation] = ()) -> None:
    """Apply a change to the handler's own store. Each step is logged before it is sent there, and its outcome after.

    A handler whose write has to meet a condition passes the ``commit`` to send in place of the change's own; the
    change must then have one step. Raises ``Fault``, and ``Rejected`` as ``DocumentStore.commit`` does.
    """
    intend = ctx.intend
    for step in change.steps:
        intent = None if intend is None else intend(step)
        try:
            if commit:
                await store.commit(commit, ctx)
            else:
                await apply_step(step.own, store, ctx)
        except (Rejected, Fault) as refusal:
            if intent is not None:
                if refusal.may_have_applied:
                    intent.doubt()
                else:
                    intent.abort()
            raise
        except BaseException:  # also of a cancelled call, whose commit may be on its way
            if intent is not None:
                intent.doubt()
            raise
        if intent is not None:
            intent.settle()


async def apply_step(step: Change, store: DocumentStore, ctx: Context) -> None:
    """Apply one step. Raises as ``Change.apply``."""
    stored: dict[str, Document | None] = {}
    for _ in range(ATTEMPTS):
        reads = step.reads
        for path in reads:
            stored[path] = await store.get(path, ctx)
        mutations = guarded(reads, step.plan(stored), stored)
        if not mutations:
            return
        try:
            await store.commit(mutations, ctx)
            return
        except Rejected as refusal:
            if refusal.reason is Reason.INVALID:
                coarser = step.coarser
                if coarser is None:
                    raise
                step = coarser
                continue
            looked = [path for path in step.traces if path not in reads]
            if looked:
                stored.update(zip(looked, await store.get_many(looked, ctx), strict=True))
            if refusal.reason is Reason.MISSING and not reads and _demands_missing(step.plan(stored), stored):
                raise
    raise contended(step.documents[0])


def _demands_missing(mutations: Sequence[Mutation], stored: Documents) -> bool:
    """Whether some write demands a document that is not there, as far as is known."""
    return any(
        write.precondition is not None and write.precondition.exists is True and stored.get(write.path) is None
        for write in mutations
    )


def guarded(reads: Sequence[str], planned: Sequence[Mutation], stored: Documents) -> Sequence[Mutation]:
    """A step's plan, with the precondition that the documents it was made from are as they were read."""
    if not reads:
        return planned
    return [
        Mutation(write.path, write.fields, write.mask, write.transforms, unchanged(stored.get(write.path)))
        if write.path in reads
        else write
        for write in planned
    ]


def unchanged(document: Document | None) -> Precondition:
    """The precondition that the stored document is this one."""
    return Precondition(exists=False) if document is None else Precondition(update_time=document.update_time)


def contended(path: str) -> Fault:
    """The fault of a change that lost every race for a document; nothing was applied."""
    return Fault(FaultKind.ABORTED, f"{path} changed each time before it could be written", may_retry=True)
