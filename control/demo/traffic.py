"""Starts the demo's stream of requests, reads its counts and ends it. The stream itself is ``control.demo.load``."""

from __future__ import annotations

import json
import threading
from typing import Any, Final

from backends.copy.fixtures import initial
from backends.kinds.mock.settings import Mock
from control.demo.children import Children
from control.demo.stage import DemoError

READ_WITHIN_S: Final = 5.0  # from the end of the stream's process until its last line is read


class Traffic:
    """The stream of requests, in a child process. ``counts`` is the newest line of counts that it wrote."""

    def __init__(self, children: Children, listen: str, rate: float) -> None:
        orders = {"url": f"http://{listen}", "rate": rate, "scans": _ids("scans")}
        self.counts: dict[str, Any] = {}
        self._children = children
        self._child = children.python("load", "control.demo.load", told=json.dumps(orders).encode(), read=True)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._child.pid

    def _read(self) -> None:
        assert self._child.stdout is not None
        for line in self._child.stdout:
            self.counts = json.loads(line)

    def end(self) -> dict[str, Any]:
        """End the stream once its requests in flight are answered, and return the final counts."""
        self._children.end("load")
        self._reader.join(READ_WITHIN_S)
        if not self.counts.get("final"):
            raise DemoError(f"the stream of requests broke off:\n{self._children.log('load')}")
        return self.counts

    def note(self) -> str:
        """One line on what the client counted so far."""
        counts = self.counts
        if not counts:
            return "Client   no answer yet"
        sources = ", ".join(f"{count:,} from {name}" for name, count in sorted(counts["sources"].items()))
        failed = f"; the last failure: {counts['examples'][-1]}" if counts["examples"] else ""
        return f"Client   {counts['answered']:,} answers, {sources}, {counts['failed']} failed{failed}"


def _ids(collection: str) -> list[str]:
    """The ids of a top-level collection's documents in the initial data of both sides."""
    parts = (mutation.path.split("/") for mutation in initial(Mock())())
    return [ids[1] for ids in parts if len(ids) == 2 and ids[0] == collection]
