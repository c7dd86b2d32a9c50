"""A migration's two sides as one source of answers: fallback, mirroring, and an arm over a store."""
