"""Firestore over raw gRPC stubs: value codec, live view, store."""
