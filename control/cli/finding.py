"""Finds a running phasegate by its configuration: its control plane's address, and which migration is meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from control.api.unanswered import Unreachable
from control.terminal.exits import USAGE, Stop

CONFIG: Final = "phasegate.toml"
# Where a client on this machine asks a server that listens on every address.
_ANYWHERE: Final = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104 - nothing binds to it here


def peek(config: str, *, needed: bool) -> dict[str, Any]:
    """The configuration file, parsed but not validated, to find the running phasegate. {} where there is no file."""
    import tomllib

    path = Path(config)
    if needed and config != CONFIG and not path.is_file():
        raise Stop(USAGE, f"{config} does not exist: name another with --config, or the address with --url")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (OSError, ValueError) as error:
        if needed:
            raise Stop(
                USAGE, f"{config} cannot be read: {error}. Correct it, or give the address with --url."
            ) from error
        return {}


def control_url(listen: str, run_dir: Path) -> str | None:
    """The control plane's address, as a URL; None where its port is chosen at the start, and nobody serves.

    A phasegate that serves from ``run_dir`` says where it listens: ``listen`` is only what the configuration wants.
    """
    from proxy.process.rundir import served_by

    ready = served_by(run_dir)
    place = listen if ready is None else ready.control
    return None if place.endswith(":0") else url_of(place)


def url_of(place: str) -> str:
    """The URL by which a client on this machine reaches whoever listens at ``place``, a HOST:PORT."""
    host, _, port = place.rpartition(":")
    return f"http://{_ANYWHERE.get(host, host)}:{port}"


def found_url(document: dict[str, Any], config: str) -> str:
    """The control plane's address by a configuration that was ``peek``ed. Raises ``Unreachable``."""
    from control.api.client import DEFAULT_URL

    if not document:
        return DEFAULT_URL
    control = document.get("control")
    named = control.get("listen") if isinstance(control, dict) else None
    listen = named if isinstance(named, str) else DEFAULT_URL.removeprefix("http://")
    run_dir = _run_dir(document, config)
    url = control_url(listen, run_dir)
    if url is None:
        message = (
            f"no phasegate serves from {run_dir}, and the port of control.listen ({listen}) is chosen at its start"
        )
        raise Unreachable(message, "Start it with `phasegate serve`, or name its address in PHASEGATE_URL.")
    return url


def _run_dir(document: dict[str, Any], config: str) -> Path:
    from proxy.settings import Proxy

    proxy = document.get("proxy")
    named = proxy.get("run_dir") if isinstance(proxy, dict) else None
    return Path(config).resolve().parent / (named if isinstance(named, str) else Proxy().run_dir)


def chosen_migration(document: dict[str, Any], config: str) -> str:
    """The migration that is meant where none is named. Raises ``Stop`` where that is not certain."""
    from control.api.client import DEFAULT_MIGRATION

    declared = document.get("migrations")
    names = list(declared) if isinstance(declared, dict) else []
    if DEFAULT_MIGRATION in names or not names:
        return DEFAULT_MIGRATION
    if len(names) > 1:
        raise Stop(USAGE, f"{config} has several migrations: choose one with --migration ({', '.join(names)})")
    return str(names[0])


def proxy_url(config: str) -> str:
    """The proxy's address for a client on this machine: the first of proxy.listen, as a URL."""
    from proxy.process.rundir import served_by
    from proxy.settings import Proxy

    document = peek(config, needed=False)
    ready = served_by(_run_dir(document, config)) if document else None
    if ready is not None:
        return url_of(ready.proxy[0])
    proxy = document.get("proxy")
    listen = proxy.get("listen") if isinstance(proxy, dict) else None
    named = listen[0] if isinstance(listen, list) and listen else None
    return url_of(named if isinstance(named, str) else Proxy().listen[0])
