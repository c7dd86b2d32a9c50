"""Counts in, a verdict with its evidence out. Pure: no clock, board or network; ``simulate`` runs it by hand."""
