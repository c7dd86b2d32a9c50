"""``python -m tests.support.orders.on_a_shelf ARGUMENTS``: with orders added, and shelves to keep them."""

from backends.extensions import register
from control.cli.main import run

register("tests.support.orders.adapter:ADAPTER")
register("tests.support.shelf:KIND")
run()
