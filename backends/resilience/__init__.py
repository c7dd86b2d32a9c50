"""Protects reads from a failing target: deadline, retry budget, breaker, single flight, fallback."""
