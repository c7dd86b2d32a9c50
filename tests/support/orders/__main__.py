"""``python -m tests.support.orders ARGUMENTS``: phasegate's command line, with the adapter of orders added."""

from backends.adapters.loading import register
from control.cli.main import run

register("tests.support.orders.adapter:ADAPTER")
run()
