"""What is kept live of each collection: enough to answer the requests that are made all the time."""

from __future__ import annotations

from typing import Final

from backends.adapters import analytics, dashboard, scans
from backends.documents.port import Query

VIEWS: Final = (
    Query(dashboard.COLLECTION, order="published_at", descending=True, limit=100),
    Query(scans.COLLECTION, order="created_at", descending=True, limit=500),
    Query(analytics.TOTALS),
)
