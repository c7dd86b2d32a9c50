"""The store of a rollout: checkpoints, and the audit trail with its chain of hashes."""
