"""An HTTP origin as a backend: the data plane forwards to it, and it is asked after its health over HTTP."""
