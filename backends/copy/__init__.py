"""Fills a backend with data, moves it to another, and compares the two: fixtures, seeding, copy, compare, repair."""
