"""The judge: counts in, a verdict with its evidence out. Pure: no clock, board or network."""
