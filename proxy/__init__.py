"""The data plane: sockets, HTTP/1.1, the split, the board and the processes that serve traffic.

Must never import ``control``, judge a target, or wait for the control plane on a request's path.
"""
