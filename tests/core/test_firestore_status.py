"""What a status of Firestore means, by its code and text, and what a person is told to do about it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from grpc import StatusCode as Code

from backends.documents.port import Reason, Rejected
from backends.errors import Fault, FaultKind
from backends.kinds.firestore.status import (
    NAMES,
    Place,
    commit_error,
    foreign,
    no_credentials,
    read_error,
    says_document,
)

PLACE = Place("shop-1", "(default)")
INDEX = "https://console.firebase.google.com/v1/r/project/shop-1/firestore/indexes?create_composite=Cktwcm9qZWN0cw"
DOCS = Path(__file__).parents[2] / "docs" / "firestore.md"

# Texts as the service sends them.
SAID = [
    (
        Code.NOT_FOUND,
        "The database (default) does not exist for project shop-1 Please visit https://console.cloud.google.com/"
        "datastore/setup?project=shop-1 to add a Cloud Datastore or Cloud Firestore database. ",
        "missing_database",
    ),
    (
        Code.NOT_FOUND,
        "The project shop-1 does not exist or it does not contain an active Cloud Datastore or Cloud Firestore "
        "database. Please visit http://console.cloud.google.com to create a project",
        "missing_database",
    ),
    (Code.FAILED_PRECONDITION, f"The query requires an index. You can create it here: {INDEX}", "missing_index"),
    (
        Code.FAILED_PRECONDITION,
        f"The query requires a COLLECTION_GROUP_ASC index for collection results and field posted_at. You can create "
        f"it here: {INDEX}",
        "missing_index",
    ),
    (
        Code.FAILED_PRECONDITION,
        f"The query requires an index. That index is currently building and cannot be used yet. See its status here: "
        f"{INDEX}",
        "index_building",
    ),
    (
        Code.FAILED_PRECONDITION,
        "The Cloud Firestore API is not available for Firestore in Datastore Mode database "
        "projects/shop-1/databases/(default).",
        "datastore_mode",
    ),
    (
        Code.FAILED_PRECONDITION,
        "The Cloud Firestore API is not available for Cloud Datastore projects.",
        "datastore_mode",
    ),
    (
        Code.PERMISSION_DENIED,
        "Cloud Firestore API has not been used in project shop-1 before or it is disabled. Enable it by visiting "
        "https://console.developers.google.com/apis/api/firestore.googleapis.com/overview?project=shop-1 then retry.",
        "api_not_enabled",
    ),
    (
        Code.PERMISSION_DENIED,
        "This API method requires billing to be enabled. Please enable billing on project #shop-1 by visiting "
        "https://console.developers.google.com/billing/enable?project=shop-1 then retry.",
        "billing_off",
    ),
    (Code.PERMISSION_DENIED, "Permission denied on resource project shop-1.", "wrong_project"),
    (Code.PERMISSION_DENIED, "Consumer 'project:shop-1' has been suspended.", "wrong_project"),
    (Code.PERMISSION_DENIED, "Missing or insufficient permissions.", "no_permission"),
    (Code.PERMISSION_DENIED, "The caller does not have permission", "no_permission"),
    (
        Code.UNAUTHENTICATED,
        "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other valid "
        "authentication credential.",
        "refused_credentials",
    ),
    (
        Code.UNAVAILABLE,
        "Getting metadata from plugin failed with error: ('invalid_grant: Token has been expired or revoked.', "
        "{'error': 'invalid_grant'})",
        "refused_credentials",
    ),
    (Code.RESOURCE_EXHAUSTED, "Quota exceeded.", "exhausted_quota"),
    (
        Code.RESOURCE_EXHAUSTED,
        "Quota exceeded for quota metric 'Free daily write units per project (free tier database)'",
        "exhausted_quota",
    ),
    (Code.INVALID_ARGUMENT, "too many index entries for entity", "exhausted_index_entries"),
    (Code.INVALID_ARGUMENT, "Transaction too big. Decrease transaction size.", "commit_too_large"),
    (
        Code.INVALID_ARGUMENT,
        "Request payload size exceeds the limit: 11534336 bytes.",
        "commit_too_large",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("code", "text", "name"), SAID)
def test_what_the_service_says_is_recognised(code: Code, text: str, name: str) -> None:
    found = commit_error(code, text, PLACE, conditional=False)
    assert found.trouble is not None
    assert found.trouble.name == name
    assert found.trouble.mend
    assert found.trouble.whose
    assert "{" not in found.trouble.mend + str(found).replace("{'error'", "")


@pytest.mark.parametrize(("code", "text", "name"), [row for row in SAID if row[2] != "commit_too_large"])
def test_a_read_that_meets_it_is_a_fault_and_never_a_missing_document(code: Code, text: str, name: str) -> None:
    found = read_error(code, text, PLACE)
    assert isinstance(found, Fault)
    assert found.trouble is not None
    assert found.trouble.name == name
    assert not found.may_have_applied


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (Code.UNAVAILABLE, "failed to connect to all addresses"),
        (Code.UNAVAILABLE, "Getting metadata from plugin failed with error: HTTPSConnectionPool: timed out"),
        (Code.RESOURCE_EXHAUSTED, "Received message larger than max"),
        (Code.ABORTED, "Too much contention on these documents. Please try again."),
        (Code.DEADLINE_EXCEEDED, "Deadline Exceeded"),
        (Code.INTERNAL, "An internal error occurred."),
    ],
)
def test_ordinary_failures_ask_nobody_to_do_anything(code: Code, text: str) -> None:
    assert read_error(code, text, PLACE).trouble is None


def test_the_link_that_creates_an_index_is_kept_whole() -> None:
    found = read_error(Code.FAILED_PRECONDITION, f"The query requires an index. Create it: {INDEX}.", PLACE)
    assert found.trouble is not None
    assert f"{INDEX} " in f"{found.trouble.mend} "


def test_without_a_link_in_the_text_the_console_is_named() -> None:
    found = read_error(Code.FAILED_PRECONDITION, "no matching index found.", PLACE)
    assert found.trouble is not None
    assert (
        "https://console.cloud.google.com/firestore/databases/(default)/indexes?project=shop-1" in found.trouble.mend
    )


def test_not_found_is_about_a_document_only_where_a_write_demands_one() -> None:
    about_a_document = commit_error(Code.NOT_FOUND, "No document to update: x", PLACE, conditional=True)
    assert isinstance(about_a_document, Rejected)
    assert about_a_document.reason is Reason.MISSING
    assert isinstance(commit_error(Code.NOT_FOUND, "gone", PLACE, conditional=False), Fault)
    assert isinstance(commit_error(Code.NOT_FOUND, SAID[0][1], PLACE, conditional=True), Fault)
    assert isinstance(read_error(Code.NOT_FOUND, None, PLACE), Fault)


@pytest.mark.parametrize(
    ("text", "certain"),
    [
        ('Document "projects/shop-1/databases/(default)/documents/scans/a" not found.', True),
        ("Document (projects/shop-1/databases/(default)/documents/scans/a) not found.", True),  # the emulator
        *((text, False) for code, text, _ in SAID if code is Code.NOT_FOUND),
        ("Requested entity was not found.", False),
        ("", False),
        (None, False),
    ],
)
def test_only_a_text_that_names_a_document_is_about_one(text: str | None, certain: bool) -> None:
    assert says_document(text) is certain


def test_a_lost_race_is_no_missing_index() -> None:
    found = commit_error(Code.FAILED_PRECONDITION, "the stored version does not match", PLACE, conditional=True)
    assert isinstance(found, Rejected)
    assert found.reason is Reason.CHANGED


def test_a_full_index_is_the_configurations_fault_and_a_large_commit_the_requests() -> None:
    full = commit_error(Code.INVALID_ARGUMENT, "too many index entries for entity", PLACE, conditional=False)
    assert isinstance(full, Fault)
    assert full.kind is FaultKind.SETUP
    large = commit_error(Code.INVALID_ARGUMENT, "Transaction too big. Decrease it.", PLACE, conditional=False)
    assert isinstance(large, Rejected)
    assert large.reason is Reason.INVALID


def test_what_a_client_may_see_does_not_name_the_database() -> None:
    text = 'Document name "projects/shop-1/databases/(default)/documents/scans/__x__" is invalid'
    found = commit_error(Code.INVALID_ARGUMENT, text, PLACE, conditional=False)
    assert isinstance(found, Rejected)
    assert "shop-1" not in str(found)
    assert "scans/__x__" in str(found)


def test_only_a_trouble_of_one_request_leaves_the_rest_of_the_backend_alone() -> None:
    whole = {name: trouble.whole for code, text, name in SAID if (trouble := _trouble(code, text)) is not None}
    assert {name for name, about_all in whole.items() if not about_all} == {
        *("missing_index", "index_building", "exhausted_index_entries", "commit_too_large"),
    }


def _trouble(code: Code, text: str):  # type: ignore[no-untyped-def]
    return commit_error(code, text, PLACE, conditional=False).trouble


def test_every_trouble_is_in_the_table_of_the_docs_and_no_other() -> None:
    section = DOCS.read_text().split("## When Firestore is not right")[1].split("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)`", section, re.MULTILINE)) == set(NAMES)
    made = [no_credentials("none", "E"), foreign("a/1", "why")]
    told = {name for _, _, name in SAID} | {fault.trouble.name for fault in made if fault.trouble is not None}
    assert told == set(NAMES)
