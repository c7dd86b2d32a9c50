"""``python -m tests.support.orders ARGUMENTS``: phasegate's command line, with the adapter of orders added."""

from backends.extensions import register
from control.cli.main import run

register("tests.support.orders.adapter:ADAPTER")
run()
