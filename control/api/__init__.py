"""The control API: credentials, calls and their answers, the event stream, and a client."""
