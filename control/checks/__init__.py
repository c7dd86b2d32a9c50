"""Pre-flight: everything that a migration needs, looked at before it begins."""
