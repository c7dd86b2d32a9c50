"""An HTTP origin as a backend: the data plane forwards requests to it, and health checks use HTTP."""
