"""Where an answer comes from: operations, document stores, adapters, and the care taken of a failing target.

Must never import ``proxy`` or ``control``, know a phase or a weight, or see a socket of a client's.
"""
