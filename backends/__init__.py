"""What answers data requests: operations, document stores, adapters, and the handling of a failing target.

Must never import ``proxy`` or ``control``, know phases or weights, or touch a client's socket.
"""
