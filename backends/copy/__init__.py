"""Fills a backend with data: fixtures and seeding."""
