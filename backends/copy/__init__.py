"""Brings data to a side: fixtures and seeding."""
