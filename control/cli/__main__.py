"""``python -m control.cli``: the ``phasegate`` command, with this Python."""

from control.cli.main import run

if __name__ == "__main__":
    run()
