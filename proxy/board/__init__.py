"""The shared memory through which workers, control and supervisor exchange their state."""
