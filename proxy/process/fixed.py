"""What a reload cannot change, because the sockets and the run directory are taken once, at the start. Pure."""

from __future__ import annotations

from typing import Final

import msgspec

from proxy.settings import Plan


class Fixed(msgspec.Struct, frozen=True):
    """The keys that need a restart, with what they said at the start; addresses as the configuration has them."""

    listen: tuple[str, ...]
    listeners: tuple[str, ...]
    workers: int
    run_dir: str
    control: str


_KEYS: Final = {
    "listen": "proxy.listen",
    "listeners": "proxy.listeners",
    "workers": "proxy.workers",
    "run_dir": "proxy.run_dir",
    "control": "control.listen",
}


def fixed_of(plan: Plan, control_listen: str) -> Fixed:
    """What a configuration says of these keys."""
    proxy = plan.proxy
    listeners = tuple(listener.address for listener in proxy.listeners)
    return Fixed(proxy.listen, listeners, proxy.workers, proxy.run_dir, control_listen)


def changed(old: Fixed, new: Fixed) -> list[str]:
    """The keys that a reload would be refused for."""
    return [key for name, key in _KEYS.items() if getattr(old, name) != getattr(new, name)]
