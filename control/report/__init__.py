"""The report of a run, made from the audit trail: as a document, in words, as tables, plots and an HTML page."""
