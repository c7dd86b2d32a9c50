"""Data requests: which are a migration's, whose they are, which arm answers, and what came of it."""
