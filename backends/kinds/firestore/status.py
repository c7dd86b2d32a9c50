"""What a gRPC status of Firestore means: one table for reads and writes. Pure.

A code alone says too little: FAILED_PRECONDITION is a lost race, a missing index or a database of the wrong mode. So
the rows of ``_TROUBLES`` are recognised by code and text, first match first; what no row recognises is judged by its
code alone. Codes and their advice on retrying: https://cloud.google.com/firestore/docs/understand-error-codes.

A message is for operators, in the log and in ``phasegate check``. A client gets the fault's kind only, and of a
refused write the message without the database's name.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from grpc import StatusCode as _Code

from backends.documents.foreign import TROUBLE as FOREIGN
from backends.documents.port import Reason, Rejected
from backends.errors import Fault, FaultKind, Trouble

LINK_LENGTH: Final = 2000  # characters; the link that creates an index holds the index's definition
TEXT_LENGTH: Final = 600  # characters of the service's own message

_LINK: Final = re.compile(r"https?://[^\s'\"<>]+")
_DOCUMENT: Final = re.compile(r'Document ["(]?projects/\S+ not found')
_RESOURCE: Final = re.compile(r"projects/[^/\s]+/databases/[^/\s\"']+(/documents/?)?")


class Place(NamedTuple):
    """The database that was asked, as the words of a mend name it."""

    project: str
    database: str


class _Row(NamedTuple):
    """One trouble. ``mend`` may hold ``{project}``, ``{database}`` and ``{link}`` (the one that was sent, or
    ``otherwise``)."""

    name: str
    code: _Code
    text: str  # a regular expression, of which any part of the message must match; case does not matter
    found: str  # in words; ``{project}`` and ``{database}`` as in ``mend``
    whose: str
    mend: str
    otherwise: str = ""
    kind: FaultKind = FaultKind.SETUP
    may_retry: bool = False  # at once
    whole: bool = True


_OPERATOR: Final = "the operator of phasegate"
_OWNER: Final = "the owner of the Google Cloud project"
_SERVICE: Final = "nobody: the service is at work"
_PROGRAM: Final = "whoever wrote the request, or phasegate"

_DATABASE_ROW: Final = _Row(
    name="missing_database",
    code=_Code.NOT_FOUND,
    text=r"database .* does not exist|does not contain an active|no such database",
    found="the project {project} has no Firestore database {database}",
    whose=_OPERATOR,
    mend="Correct `project` and `database`, or create it: gcloud firestore databases create --project={project} "
    "--database='{database}' --type=firestore-native --location=LOCATION, or {link}",
    otherwise="https://console.cloud.google.com/firestore/databases?project={project}",
)
_CREDENTIALS_ROW: Final = _Row(
    name="refused_credentials",
    code=_Code.UNAUTHENTICATED,
    text=r"",
    found="Google does not accept the credentials: they have expired, were revoked, or are of another kind",
    whose=_OPERATOR,
    mend="Run `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS to the file of a valid "
    "service account key.",
    kind=FaultKind.PERMISSION,
)

_TROUBLES: Final = (
    _Row(
        name="wrong_project",
        code=_Code.NOT_FOUND,
        text=r"\bproject\b[^.]*\b(was )?not found",
        found="there is no project {project}",
        whose=_OPERATOR,
        mend="Correct `project`; `gcloud projects list` shows the projects that these credentials can see.",
    ),
    _DATABASE_ROW,
    _Row(
        name="index_building",
        code=_Code.FAILED_PRECONDITION,
        text=r"index .*(currently building|not ready|is building)",
        found="a composite index that this query needs is still being built",
        whose=_SERVICE,
        mend="Wait until it is built: {link}",
        otherwise="https://console.cloud.google.com/firestore/databases/{database}/indexes?project={project}",
        whole=False,
    ),
    _Row(
        name="missing_index",
        code=_Code.FAILED_PRECONDITION,
        text=r"requires an? .*index|no matching index",
        found="a composite index that this query needs is missing",
        whose=_OPERATOR,
        mend="Create it: {link} (`phasegate indexes` prints all that phasegate needs, for `firebase deploy`)",
        otherwise="https://console.cloud.google.com/firestore/databases/{database}/indexes?project={project}",
        whole=False,
    ),
    _Row(
        name="datastore_mode",
        code=_Code.FAILED_PRECONDITION,
        text=r"datastore mode|cloud datastore (projects|database)|does not support cloud firestore",
        found="the database {database} of {project} is in Datastore mode, which the Firestore API cannot read",
        whose=_OPERATOR,
        mend="Name a database in native mode as `database`, or create one: gcloud firestore databases create "
        "--project={project} --database=NAME --type=firestore-native --location=LOCATION. The mode of a "
        "database that holds data cannot be changed.",
    ),
    _Row(
        name="api_not_enabled",
        code=_Code.PERMISSION_DENIED,
        text=r"has not been used in project|api .*(is disabled|not enabled)|service_disabled|it is disabled",
        found="the Cloud Firestore API is not enabled in the project {project}",
        whose=_OWNER,
        mend="Enable it, then wait a few minutes: gcloud services enable firestore.googleapis.com "
        "--project={project}, or {link}",
        otherwise="https://console.cloud.google.com/apis/library/firestore.googleapis.com?project={project}",
    ),
    _Row(
        name="billing_off",
        code=_Code.PERMISSION_DENIED,
        text=r"billing",
        found="billing is not enabled in the project {project}",
        whose=_OWNER,
        mend="Enable it: {link}",
        otherwise="https://console.cloud.google.com/billing/linkedaccount?project={project}",
    ),
    _Row(
        name="wrong_project",
        code=_Code.PERMISSION_DENIED,
        text=r"resource project|consumer .*(invalid|suspended|deleted|not found)"
        r"|project[^.]*(not found|deleted|invalid|does not exist)",
        found="there is no project {project}, or these credentials may not use it",
        whose=_OPERATOR,
        mend="Correct `project`, or use credentials of that project; `gcloud projects list` shows the projects that "
        "they can see.",
        kind=FaultKind.PERMISSION,
    ),
    _Row(
        name="no_permission",
        code=_Code.PERMISSION_DENIED,
        text=r"",
        found="the account may not do this in the project {project}",
        whose=_OWNER,
        mend="Give the account roles/datastore.user: gcloud projects add-iam-policy-binding {project} "
        "--member=serviceAccount:ACCOUNT --role=roles/datastore.user. Or use other credentials.",
        kind=FaultKind.PERMISSION,
    ),
    _CREDENTIALS_ROW,
    # The library could not get an access token. That is the credentials' fault only if Google's answer says so: if
    # the token server did not answer, waiting helps.
    _CREDENTIALS_ROW._replace(
        code=_Code.UNAVAILABLE,
        text=r"metadata from plugin failed.*(invalid_grant|invalid_client|invalid_rapt|reauth|unauthorized_client"
        r"|expired or revoked|account not found|invalid jwt)",
    ),
    _Row(
        name="exhausted_quota",
        code=_Code.RESOURCE_EXHAUSTED,
        text=r"quota",
        found="the project {project} has used up a quota of Firestore",
        whose=_OWNER,
        mend="See which one at {link}. The free daily quota begins anew at midnight Pacific time; enable billing, or "
        "ask for more.",
        otherwise="https://console.cloud.google.com/iam-admin/quotas?project={project}",
        kind=FaultKind.EXHAUSTED,
    ),
    _Row(
        name="exhausted_index_entries",
        code=_Code.INVALID_ARGUMENT,
        text=r"too many index entries|index entries.*(limit|exceed|maximum)|(limit|exceed|maximum).*index entries",
        found="a document has more than 40,000 index entries, because a field with many values is indexed",
        whose=_OPERATOR,
        mend="Deploy the exemptions of firestore.indexes.json: firebase deploy --only firestore:indexes "
        "--project={project}. `phasegate check` says which are missing.",
        whole=False,
    ),
)
# Not a fault: no other database would take the write. It is refused like any other invalid document.
_TOO_LARGE: Final = _Row(
    name="commit_too_large",
    code=_Code.INVALID_ARGUMENT,
    text=r"transaction too big|payload size exceeds|maximum (of )?\d+ writes|more than 500 entities"
    r"|request (is )?too large",
    found="a commit is larger than Firestore takes: 10 MiB, and 500 writes",
    whose=_PROGRAM,
    mend="Send fewer or smaller documents at once.",
    whole=False,
)
_EVERY_ROW: Final = (*_TROUBLES, _TOO_LARGE)

# The names of all troubles, for the table of docs/firestore.md.
NAMES: Final = tuple(dict.fromkeys([*(row.name for row in _EVERY_ROW), "no_credentials", FOREIGN]))

# code: (kind, the same call may be sent again at once, a write may have been applied)
_FAULTS: Final = {
    _Code.DEADLINE_EXCEEDED: (FaultKind.DEADLINE, False, True),
    _Code.CANCELLED: (FaultKind.DEADLINE, False, True),
    _Code.UNAVAILABLE: (FaultKind.UNAVAILABLE, True, True),
    _Code.RESOURCE_EXHAUSTED: (FaultKind.EXHAUSTED, True, False),
    _Code.ABORTED: (FaultKind.ABORTED, True, False),
    _Code.PERMISSION_DENIED: (FaultKind.PERMISSION, False, False),
    _Code.UNAUTHENTICATED: (FaultKind.PERMISSION, False, False),
    _Code.INTERNAL: (FaultKind.INTERNAL, True, True),
    _Code.UNKNOWN: (FaultKind.INTERNAL, True, True),
    _Code.DATA_LOSS: (FaultKind.CORRUPT, False, True),
}
REJECTIONS: Final = {
    _Code.ALREADY_EXISTS: Reason.EXISTS,
    _Code.NOT_FOUND: Reason.MISSING,
    _Code.INVALID_ARGUMENT: Reason.INVALID,
    _Code.FAILED_PRECONDITION: Reason.CHANGED,
}


def says_document(details: str | None) -> bool:
    """Whether the text of a NOT_FOUND is certainly about a document, and not about the database."""
    return _DOCUMENT.match(details or "") is not None


def read_error(code: _Code, details: str | None, place: Place) -> Fault | Rejected:
    """What a failed read means: an invalid query, which does not count against the service, or a fault.

    NOT_FOUND is the database's: of a document only GetDocument says so, which ``says_document`` recognises.
    """
    row = _recognised(code, details)
    if row is None and code is _Code.NOT_FOUND:
        row = _DATABASE_ROW
    if row is not None:
        return _known(row, details, place)
    if code is _Code.INVALID_ARGUMENT:
        return Rejected(Reason.INVALID, _public(code, details))
    return _fault(code, details)


def commit_error(code: _Code, details: str | None, place: Place, *, conditional: bool) -> Fault | Rejected:
    """What a failed commit means: writes that must not be applied, or a fault.

    ``conditional``: some write demands that its document exists. Only then can NOT_FOUND be about a document.
    """
    row = _recognised(code, details)
    if row is None and code is _Code.NOT_FOUND and not conditional:
        row = _DATABASE_ROW
    if row is _TOO_LARGE:
        return Rejected(Reason.INVALID, _public(code, details), _trouble(row, details, place))
    if row is not None:
        return _known(row, details, place)
    reason = REJECTIONS.get(code)
    return Rejected(reason, _public(code, details)) if reason is not None else _fault(code, details)


def no_credentials(why: str, emulator: str) -> Fault:
    """The fault where no credentials can be found on this machine. ``emulator``: the variable that names one."""
    mend = (
        "Run `gcloud auth application-default login`, set GOOGLE_APPLICATION_CREDENTIALS to a key's file, or set "
        f"{emulator} to use an emulator."
    )
    trouble = Trouble("no_credentials", _OPERATOR, mend)
    return Fault(FaultKind.PERMISSION, f"Firestore: no Google credentials: {why}", trouble=trouble)


def foreign(path: str, why: str) -> Fault:
    """The fault of reading, by its own path, a document that nobody of this app wrote."""
    mend = "Move the document elsewhere, or set `prefix` so that both apps have collections of their own."
    trouble = Trouble(FOREIGN, "whoever wrote the document", mend, whole=False)
    return Fault(FaultKind.CORRUPT, f"Firestore: {path}: {why}", trouble=trouble)


def _recognised(code: _Code, details: str | None) -> _Row | None:
    text = details or ""
    return next(
        (row for row in _EVERY_ROW if row.code is code and re.search(row.text, text, re.IGNORECASE | re.DOTALL)), None
    )


def _known(row: _Row, details: str | None, place: Place) -> Fault:
    found = row.found.format(project=place.project, database=place.database)
    message = f"Firestore: {found} ({row.code.name}: {(details or '')[:TEXT_LENGTH]})"
    return Fault(row.kind, message, may_retry=row.may_retry, trouble=_trouble(row, details, place))


def _trouble(row: _Row, details: str | None, place: Place) -> Trouble:
    sent = _LINK.search(details or "")
    link = sent[0].rstrip(".,;)]") if sent is not None and len(sent[0]) <= LINK_LENGTH else row.otherwise
    link = link if sent is not None and link is not row.otherwise else link.format(**place._asdict())
    mend = row.mend.format(project=place.project, database=place.database, link=link)
    return Trouble(row.name, row.whose, mend, row.whole)


def _fault(code: _Code, details: str | None) -> Fault:
    kind, may_retry, may_have_applied = _FAULTS.get(code, (FaultKind.INTERNAL, False, False))
    message = f"Firestore: {code.name}: {(details or '')[:TEXT_LENGTH]}"
    return Fault(kind, message, may_retry=may_retry, may_have_applied=may_have_applied)


def _public(code: _Code, details: str | None) -> str:
    """The service's message without the database's name, because a client may see it."""
    return _RESOURCE.sub("", details or code.name)[:TEXT_LENGTH]
