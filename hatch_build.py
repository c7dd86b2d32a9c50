"""Compiles the data plane's hot modules while a wheel is built, from the same source, where a C compiler is there.

Python's build tools run this (``[tool.hatch.build]`` in pyproject.toml). mypyc turns the modules of ``HOT`` into
extension modules that lie beside their sources in the wheel and are found before them. Nothing needs them: without a
compiler, or where compiling fails, the wheel is plain Python, says so, and does the same for about twice the CPU
time. ``PHASEGATE_COMPILE`` asks for another way: ``require`` fails rather than fall back, ``no`` does not try.
``phasegate --version`` tells which form is installed.

They are one group, so calls between them are C calls; a class that plain Python code inherits from must stay out.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGES = ("backends", "proxy")
HOT = (
    *(f"backends/{name}.py" for name in ("arm", "errors", "operations", "pair/manager", "pair/storearm")),
    *(f"proxy/board/{name}.py" for name in ("board", "histogram", "layout", "series")),
    *(f"proxy/migration/{name}.py" for name in ("answering", "mixing", "relaying", "routes")),
    *(f"proxy/migration/{name}.py" for name in ("buckets", "split", "sticky")),
    *(f"proxy/http1/{name}.py" for name in ("accesslog", "addresses", "body", "client", "clients", "downstream")),
    *(f"proxy/http1/{name}.py" for name in ("forwarder", "head", "headcache", "headreader", "liveness", "logfile")),
    *(f"proxy/http1/{name}.py" for name in ("nexthop", "pool", "refusal", "service", "shared", "states", "upstream")),
    "proxy/process/gateway.py",
)
GROUP = "phasegate__mypyc"  # the one library that holds the code of all; a module's own file only leads to it
# The types were checked strictly before; here libraries that are not installed are taken as they come.
CHECKING = ("--config-file=", "--ignore-missing-imports", "--follow-imports=silent")
# -O2 is as fast as -O3, and takes half a minute less to compile.
SETUP = """\
from mypyc.build import mypycify
from setuptools import setup

modules = mypycify({arguments}, opt_level="2", debug_level="0", group_name="{group}")
setup(name="phasegate", packages=[], py_modules=[], ext_modules=modules)
"""


class CompileError(Exception):
    """The modules could not be compiled: why, in the compiler's words."""


def compiler() -> str | None:
    """Where the C compiler is that this Python was built for; None where there is none, or no ``Python.h``."""
    command = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
    header = Path(sysconfig.get_path("include"), "Python.h")
    return shutil.which(command.split()[0]) if header.is_file() else None


def compiled(root: Path, folder: Path) -> list[Path]:
    """Compile ``HOT`` in a copy of the packages in ``folder``: the files made, within it. Raises ``CompileError``."""
    for package in PACKAGES:
        shutil.copytree(root / package, folder / package, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    (folder / "setup.py").write_text(SETUP.format(arguments=[*CHECKING, *HOT], group=GROUP.removesuffix("__mypyc")))
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CompileError((done.stdout + done.stderr).strip())
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    return [path for path in folder.rglob(f"*{suffix}") if "build" not in path.relative_to(folder).parts]


class CustomBuildHook(BuildHookInterface[Any]):
    """The hook. A wheel is compiled; an editable installation never is, for it could become out of date."""

    _folder: tempfile.TemporaryDirectory[str] | None = None

    def dependencies(self) -> list[str]:
        """What compiling needs beside the C compiler."""
        return ["mypy[mypyc]>=2.4,<3"] if compiler() and _asked() != "no" else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and put what was made into the wheel."""
        asked = _asked()
        if version == "editable" or asked == "no":
            return
        self._folder = tempfile.TemporaryDirectory(prefix="phasegate-compile-")
        folder = Path(self._folder.name)
        try:
            if compiler() is None:
                raise CompileError("there is no C compiler, or no Python.h: on Debian install gcc and python3-dev")
            found = compiled(Path(self.root), folder)
        except CompileError as error:
            if asked == "require":
                raise
            self.app.display_warning(f"{error}\nphasegate: not compiled: this wheel is plain Python, and slower")
            return
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        build_data["force_include"] |= {str(path): str(path.relative_to(folder)) for path in found}

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Take away what the compiler left."""
        if self._folder is not None:
            self._folder.cleanup()


def _asked() -> str:
    asked = os.environ.get("PHASEGATE_COMPILE", "")
    if asked not in ("", "require", "no"):
        raise SystemExit(f"PHASEGATE_COMPILE: expected require or no, found {asked!r}")
    return asked
