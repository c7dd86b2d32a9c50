"""Leads one migration: watches, judges, steps the rollout, saves and publishes it, and tells whoever listens."""
