"""What was asked for: phases, gates, settings, and every mistake in them told in words."""
