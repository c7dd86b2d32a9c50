"""The handlers of the app's data requests, each written once over the document-store port."""
