"""What a person sees on a terminal: exit codes, tables, the live picture of a migration."""
