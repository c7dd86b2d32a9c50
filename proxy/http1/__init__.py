"""HTTP/1.1 as an intermediary must speak it (RFC 9110, RFC 9112): strict in both directions, streaming."""
