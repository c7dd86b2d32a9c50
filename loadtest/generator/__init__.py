"""One load generator: when requests are due, the client that sends them, the visitors whose requests they are."""
