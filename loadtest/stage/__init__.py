"""Real processes to measure or to break: started as a user starts them, and always ended."""
