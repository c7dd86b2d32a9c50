"""The data of a migration between document stores: what the target is known to lack, and the task that mends it."""
