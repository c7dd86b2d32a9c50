"""Rehearsals: a migration on real processes under load, one thing broken at a time, and what clients saw of it."""
