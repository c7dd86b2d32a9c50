"""phasegate's own emulator of Firestore, for demos and tests: the mock's store behind Firestore's gRPC methods."""
