"""Pre-flight and health checks: everything that a migration needs, checked before it begins."""
