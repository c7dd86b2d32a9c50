"""The processes that serve traffic: the supervisor, its children, their sockets and their logs."""
