"""The load generator: the schedule of requests, the client that sends them, the visitors that make them."""
