"""What keeps a failing target from failing a reader: deadline, retry budget, breaker, single flight, fallback."""
