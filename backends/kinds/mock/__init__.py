"""The mock: a document store in memory, shared by a machine's processes through a journal."""
