"""Load from outside, as clients send it: locust files, an open loop, rehearsals and benchmarks.

Each package imports only those before it: ``stage``, ``generator``, ``phases``, and then the files of the phases.
``rehearse`` and ``bench`` stand on ``stage`` and ``generator``, not on each other.

Must never import ``control``, ``proxy`` or ``backends``: what it measures it sees only from the wire.
"""
