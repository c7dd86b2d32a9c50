"""The demo: the main job with nothing to set up, and a check that it was done."""
