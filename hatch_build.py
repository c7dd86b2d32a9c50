"""Compiles the data plane's hot modules while a wheel is built, if a C compiler is installed.

Python's build tools run this hook (``[tool.hatch.build]`` in pyproject.toml). mypyc compiles the modules of ``HOT``
into extension modules, which lie beside their sources in the wheel; Python imports them instead of the sources. They
are optional: without a compiler, or where compiling fails, the wheel is plain Python with a warning. It behaves the
same and takes about twice the CPU time. ``PHASEGATE_COMPILE=require`` fails instead of falling back to plain Python;
``PHASEGATE_COMPILE=no`` does not compile. ``phasegate --version`` shows which form is installed.

The modules are one group, so calls between them are C calls. A class that plain Python code inherits from must not be
in ``HOT``.
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
GROUP = "phasegate__mypyc"  # one library holds the code of all modules; each module's own file only loads it
# `make lint` checks the types strictly. In a build, imports that are not installed must not fail the type check.
CHECKING = ("--config-file=", "--ignore-missing-imports", "--follow-imports=silent")
# -O2 code is as fast as -O3 code here, and compiles half a minute faster.
SETUP = """\
from mypyc.build import mypycify
from setuptools import setup

modules = mypycify({arguments}, opt_level="2", debug_level="0", group_name="{group}")
setup(name="phasegate", packages=[], py_modules=[], ext_modules=modules)
"""


class CompileError(Exception):
    """The modules could not be compiled. The message is the compiler's output."""


def compiler() -> str | None:
    """Path of the C compiler to use; None where it or ``Python.h`` is missing."""
    command = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
    header = Path(sysconfig.get_path("include"), "Python.h")
    return shutil.which(command.split()[0]) if header.is_file() else None


def compiled(root: Path, folder: Path) -> list[Path]:
    """Compile ``HOT`` in a copy of the packages in ``folder``; the compiled files. Raises ``CompileError``."""
    for package in PACKAGES:
        shutil.copytree(root / package, folder / package, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    (folder / "setup.py").write_text(SETUP.format(arguments=[*CHECKING, *HOT], group=GROUP.removesuffix("__mypyc")))
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if result.returncode:
        raise CompileError((result.stdout + result.stderr).strip())
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    return [path for path in folder.rglob(f"*{suffix}") if "build" not in path.relative_to(folder).parts]


class CustomBuildHook(BuildHookInterface[Any]):
    """The build hook. Wheels are compiled. Editable installations are not: compiled code would become out of date."""

    _folder: tempfile.TemporaryDirectory[str] | None = None

    def dependencies(self) -> list[str]:
        """The Python packages that compiling needs."""
        return ["mypy[mypyc]>=2.4,<3"] if compiler() and _mode() != "no" else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and add the compiled files to the wheel."""
        mode = _mode()
        if version == "editable" or mode == "no":
            return
        self._folder = tempfile.TemporaryDirectory(prefix="phasegate-compile-")
        folder = Path(self._folder.name)
        try:
            if compiler() is None:
                raise CompileError("a C compiler or Python.h is missing: on Debian install gcc and python3-dev")
            files = compiled(Path(self.root), folder)
        except CompileError as error:
            if mode == "require":
                raise
            self.app.display_warning(f"{error}\nphasegate: not compiled: this wheel is plain Python, and slower")
            return
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        build_data["force_include"] |= {str(path): str(path.relative_to(folder)) for path in files}

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove the temporary folder."""
        if self._folder is not None:
            self._folder.cleanup()


def _mode() -> str:
    mode = os.environ.get("PHASEGATE_COMPILE", "")
    if mode not in ("", "require", "no"):
        raise SystemExit(f"PHASEGATE_COMPILE: expected require or no, found {mode!r}")
    return mode
