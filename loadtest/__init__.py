"""Load from outside, as clients send it: locust files and benchmarks.

Must never import ``control``, ``proxy`` or ``backends``: what it measures it sees only from the wire.
"""
