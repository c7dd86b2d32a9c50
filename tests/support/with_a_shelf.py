"""``python -m tests.support.with_a_shelf ARGUMENTS``: phasegate's command line, with the kind of shelves added."""

from backends.extensions import register
from control.cli.main import run

register("tests.support.shelf:KIND")
run()
