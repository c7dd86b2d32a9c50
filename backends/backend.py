"""What the settings of all backends have in common, whatever their kind. Pure."""

from __future__ import annotations


class Backend:
    """One backend as ``[backends.NAME]`` describes it: the base of the settings of every kind.

    A kind's settings are a ``msgspec.Struct`` too, with ``tag_field="kind"`` and the kind's name as ``tag``.
    """

    __slots__ = ()

    @property
    def deadline_s(self) -> float:
        """How long one call may take."""
        raise NotImplementedError

    @property
    def kind(self) -> str:
        """The name of its kind, as ``kind = "…"`` gives it."""
        return str(type(self).__struct_config__.tag)  # type: ignore[attr-defined]  # the Struct's
