"""Put measured figures into their places on a page: ``python -m loadtest.bench.page docs/performance.md FILE.json…``.

A place is the text between ``<!-- figures: NAME -->`` and ``<!-- end -->``; NAME is the module that measured
(``bench`` or ``scale``), from the JSON.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def with_figures(page: str, name: str, figures: str) -> str:
    """The page with new figures in the place ``name``. Raises ``ValueError`` unless it has exactly one such place."""
    place = re.compile(rf"(<!-- figures: {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
    filled, count = place.subn(lambda match: f"{match[1]}\n{figures.strip()}\n\n{match[2]}", page)
    if count != 1:
        raise ValueError(f"expected one place <!-- figures: {name} -->, found {count}")
    return filled


def fill(path: Path, document: Mapping[str, Any]) -> None:
    """Put a measurement's figures into its place. Raises ``ValueError`` unless there is exactly one such place."""
    text = with_figures(path.read_text(encoding="utf-8"), document["name"], "\n".join(document["told"]))
    path.write_text(text, encoding="utf-8")


def main(argv: Sequence[str]) -> int:
    """The command; its exit code."""
    if len(argv) < 2:
        print("usage: python -m loadtest.bench.page PAGE.md FILE.json…", file=sys.stderr)
        return 2
    for name in argv[1:]:
        fill(Path(argv[0]), json.loads(Path(name).read_text(encoding="utf-8")))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
