"""The command line: one function per command. A command imports what it needs when it runs, so help stays fast."""
