"""The shared memory through which workers, control and supervisor know each other's state."""
