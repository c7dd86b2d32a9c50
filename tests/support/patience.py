"""How long a test waits for what must come: far longer than that takes on a busy machine, so only a hang fails.

It is also the deadline that a test gives to the part under test, where the test is not about deadlines.
"""

from typing import Final

WITHIN_S: Final = 60.0
