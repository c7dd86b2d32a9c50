"""What phasegate costs beside nginx, haproxy and a plain aiohttp proxy: in one run, in turn, on the same work."""
