"""The report of a run: what the audit trail says, as words, a table, plots and a page."""
