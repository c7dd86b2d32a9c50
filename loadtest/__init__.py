"""Load sent from outside, as clients send it: locust files, an open loop, rehearsals and benchmarks.

Each package imports only those before it: ``stage``, ``generator``, ``phases``, and then the files of the phases.
``rehearse`` and ``bench`` import ``stage`` and ``generator``, but not each other.

Must never import ``control``, ``proxy`` or ``backends``: it measures only what is visible on the wire.
"""
