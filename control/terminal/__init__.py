"""Output on a terminal: exit codes, tables, and the live view of a migration."""
