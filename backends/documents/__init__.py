"""The document-store port: values, queries, changes, and the rules that every store follows."""
