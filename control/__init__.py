"""The control plane: phases, judgement, rollout, its store and API, and what people touch.

Must never stand on a request's path: traffic flows while every part of this package is dead.
"""
