"""Adapters and kinds from outside, by name: what cannot be had or is another's is told, and the tables stay."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backends import extensions
from backends.adapters import registry as adapter_table
from backends.adapters.adapter import AdapterError
from backends.extensions import ExtensionError
from backends.kinds import registry as kind_table
from backends.kinds.registry import KINDS, KindError

ORDERS = "tests.support.orders.adapter:ADAPTER"
SHELF = "tests.support.shelf:KIND"

Write = Callable[[str], str]


@pytest.fixture(autouse=True)
def tables() -> Iterator[None]:
    """The house's own rows afterwards."""
    yield
    extensions.use(())


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """A module from outside with this source, for one test: its name."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(source: str) -> str:
        (tmp_path / "outside_for_a_test.py").write_text(source)
        monkeypatch.delitem(sys.modules, "outside_for_a_test", raising=False)
        return "outside_for_a_test"

    return write


def rows() -> tuple[list[str], list[str]]:
    """The names in both tables."""
    return [adapter.name for adapter in adapter_table.adapters()], list(KINDS)


HOUSE = ([adapter.name for adapter in adapter_table.BUILT_IN], [kind.name for kind in kind_table.BUILT_IN])


def test_an_adapter_and_a_kind_are_added_and_known_by_their_names() -> None:
    extensions.register(ORDERS)
    extensions.register(SHELF)
    extensions.register(ORDERS)  # a second time changes nothing
    assert extensions.added() == (ORDERS, SHELF), "what another process is told to use"
    assert rows() == ([*HOUSE[0], "orders"], [*HOUSE[1], "shelf"])


def test_a_list_of_names_is_all_that_is_added_afterwards() -> None:
    extensions.use([ORDERS, SHELF])
    extensions.use([SHELF])
    assert (rows(), extensions.added()) == ((HOUSE[0], [*HOUSE[1], "shelf"]), (SHELF,))
    extensions.use([ORDERS])
    assert (rows(), extensions.added()) == (([*HOUSE[0], "orders"], HOUSE[1]), (ORDERS,))
    extensions.use(())
    assert (rows(), extensions.added()) == (HOUSE, ())


def test_a_registered_name_is_among_those_that_travel_to_the_children() -> None:
    extensions.register(ORDERS)
    assert extensions.added() == (ORDERS,)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("tests.support.nowhere:ADAPTER", "No module named 'tests.support.nowhere'"),
        ("tests.support.orders.adapter:NOTHING", "has no attribute 'NOTHING'"),
        ("tests.support.orders.adapter", "expected MODULE:NAME"),
        ("", "expected MODULE:NAME"),
        ("tests.support.orders.adapter:Orders", "expected an Adapter or a Kind, found type"),
        ("tests.support.shelf:Shelf", "expected an Adapter or a Kind, found StructMeta"),
        ("tests.support.shelf:mistakes", "expected an Adapter or a Kind, found function"),
    ],
)
def test_a_reference_that_leads_to_no_extension_is_told_and_the_tables_stay(reference: str, message: str) -> None:
    extensions.use([SHELF])
    before = rows()
    with pytest.raises(ExtensionError, match=repr(reference)) as refused:
        extensions.register(reference)
    assert message in str(refused.value)
    assert rows() == before
    assert extensions.added() == (SHELF,)


COPIES = {
    "an adapter": (
        ORDERS,
        "from tests.support.orders.adapter import ADAPTER as EXTENSION",
        ["the name belongs to adapter 'orders' already", "the collection orders", "the path /api/orders belongs"],
    ),
    "a kind": (
        SHELF,
        "from tests.support.shelf import KIND as EXTENSION",
        ["tests.support.shelf: a kind of backend is called 'shelf' already (tests.support.shelf)"],
    ),
}


@pytest.mark.parametrize("what", COPIES)
def test_a_name_that_is_taken_is_told_and_neither_table_changes(what: str, module: Write) -> None:
    first, source, messages = COPIES[what]
    other = SHELF if first == ORDERS else ORDERS
    extensions.use([first])
    before = rows()
    with pytest.raises(ExtensionError) as refused:
        extensions.use([first, other, f"{module(source)}:EXTENSION"])
    assert all(message in str(refused.value) for message in messages), str(refused.value)
    assert rows() == before
    assert extensions.added() == (first,)


def test_everything_that_is_taken_is_told_at_once(module: Write) -> None:
    name = module(
        "import dataclasses\n"
        "from tests.support.orders.adapter import ADAPTER as FIRST\n"
        "from tests.support.shelf import KIND as SECOND\n"
    )
    with pytest.raises(ExtensionError) as refused:
        extensions.use([ORDERS, SHELF, f"{name}:FIRST", f"{name}:SECOND"])
    assert "adapter 'orders' already" in str(refused.value)
    assert "called 'shelf' already" in str(refused.value)


WRONG = {
    "an adapter": (
        "import dataclasses\nfrom tests.support.orders.adapter import ADAPTER\n"
        "EXTENSION = dataclasses.replace(ADAPTER, collections=())\n",
        AdapterError,
        "collections: expected",
    ),
    "a kind": (
        "import dataclasses\nfrom tests.support.shelf import KIND\n"
        "EXTENSION = dataclasses.replace(KIND, open_store=None)\n",
        KindError,
        "kind 'shelf': expected either open_store or reach",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_one_that_is_wrong_in_itself_says_what_it_lacks(what: str, module: Write) -> None:
    source, error, message = WRONG[what]
    with pytest.raises(error, match=message):
        extensions.register(f"{module(source)}:EXTENSION")
    assert rows() == HOUSE
    assert extensions.added() == ()
