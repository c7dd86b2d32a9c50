"""The command line: one function a command. Imports what a command needs when it runs."""
