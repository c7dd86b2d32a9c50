"""Compares phasegate's cost with nginx, haproxy and a plain aiohttp proxy: in turn, in one run, on the same work."""
