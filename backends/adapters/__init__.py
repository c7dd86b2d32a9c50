"""What the app's data requests mean, each written once over the document-store port."""
