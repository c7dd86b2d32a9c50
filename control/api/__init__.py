"""The control API: who may ask, what is answered, the event stream, and a client for it."""
