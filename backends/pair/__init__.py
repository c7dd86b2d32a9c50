"""A migration's two sides as one data source: fallback, mirroring, and an arm over a store."""
