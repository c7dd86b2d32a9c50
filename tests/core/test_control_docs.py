"""The pages about the control plane name what there is."""

from __future__ import annotations

import re
from pathlib import Path

from control.api.endpoints import ENDPOINTS
from control.lead.commands import FIELDS

DOCS = Path(__file__).parents[2] / "docs"


def test_every_call_is_on_the_page_with_its_role() -> None:
    rows = re.findall(r"^\| `(\w+) ([^`]+)` \| (\w+) \|", (DOCS / "control-api.md").read_text(), re.MULTILINE)
    told = {(method.lower(), path): role for method, path, role in rows}
    told.pop(("get", "/admin/migration"))
    assert told == {(e.method, e.path): e.role or "anyone" for e in ENDPOINTS}


def test_every_action_is_on_the_page_with_what_it_takes() -> None:
    text = (DOCS / "control-api.md").read_text()
    for action, fields in FIELDS.items():
        if action == "reset":
            continue
        row = re.search(rf"^\| `{action}` \| (.*?) \|", text, re.MULTILINE)
        assert row is not None, action
        assert all(f"`{field}`" in row[1] for field in fields)


def test_every_error_code_is_on_the_page() -> None:
    text = (DOCS / "control-api.md").read_text()
    source = "".join(path.read_text() for path in (DOCS.parent / "control").rglob("*.py"))
    codes = set(re.findall(r"(?:Problem\(|(?<!log\.)\berror\(|Refused\()\s*(?:\d+, )?\"([a-z_]+)\"", source))
    assert len(codes) > 10
    assert {code for code in codes - {"internal", "refused"} if f"`{code}`" not in text} == set()
