"""Where a rollout is kept: checkpoints and the audit trail with its chain of hashes."""
