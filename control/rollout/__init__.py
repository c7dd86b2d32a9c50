"""The rollout's state machine: its states, the one table of transitions, and where it goes on after a restart."""
