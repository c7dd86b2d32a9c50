# make demo   runs a whole migration without any setup; ARGS go to `phasegate demo`
# make bench  compares phasegate's cost with nginx, haproxy and a plain aiohttp proxy; docs/performance.md
# make compiled   builds the hot modules with mypyc into build/compiled, as `pip install .` does where gcc is installed
# make picture    takes docs/dashboard.png from a running demo (three minutes)
# make rehearse   breaks one thing after another under load (some minutes); writes docs/rehearsals.md. ARGS: only these
# make test   runs every check: lint, types, and all tests, with real processes and the real emulator
#
# Each target first installs what is missing, once: a virtual environment in .venv, the dashboard's libraries in
# control/dashboard/vendor, and with apt python3-venv, gcc and python3-dev, and (for the browser test) chromium.

.SHELLFLAGS := -eu -o pipefail -c
SHELL := bash
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
VENDOR := control/dashboard/vendor
# The first Python that is new enough; name another with `make PYTHON=…`.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done)
SUDO := $(if $(filter 0,$(shell id -u)),,sudo )
APT := $(SUDO)apt-get

# The compiled form: copies of the packages that have compiled modules, for this Python. The sources are not changed.
COMPILED := build/compiled
COMPILED_FROM := $(shell find proxy backends -name '*.py') hatch_build.py pyproject.toml
BUILT := $(COMPILED)/.built-$(shell { $(BIN)/python -V || $(PYTHON) -V; } 2>/dev/null | tail -1 | tr -d ' ')
# Python searches the compiled copies first, and not the working folder by itself. Child processes inherit this.
RUN_COMPILED := PYTHONSAFEPATH=1 PYTHONPATH=$(CURDIR)/$(COMPILED):$(CURDIR) PHASEGATE_FORM=compiled

.PHONY: help demo test lint pytest compiled test-compiled compiler vendor browser docs bench scale bench-tools picture clean rehearse

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

demo: $(VENV)/.runs $(VENDOR)/.fetched
	@$(BIN)/phasegate demo $(ARGS)

test: lint pytest test-compiled

lint: $(VENV)/.tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Each fault runs against real processes. The clock's fault needs libfaketime, the full disk's needs root.
rehearse: $(VENV)/.tests
	@ls /usr/lib/*/faketime/libfaketimeMT.so.1 >/dev/null 2>&1 || { \
		echo "make: libfaketime is missing; installing it with apt"; $(APT) update -q && $(APT) install -qy libfaketime; }
	$(BIN)/python -m loadtest.rehearse $(or $(ARGS),--json rehearsals.json --markdown docs/rehearsals.md)

pytest: $(VENV)/.tests $(VENDOR)/.fetched browser
	$(BIN)/python -m pytest $(ARGS)

# Runs the tests of the compiled modules against their compiled form; test_form.py checks that it was used.
test-compiled: compiled
	$(RUN_COMPILED) $(BIN)/python -m pytest -o "pythonpath=$(COMPILED) ." tests/shell/http1 tests/shell/test_answering.py \
		tests/shell/test_relaying.py tests/shell/test_mixing.py tests/shell/test_arm.py tests/shell/test_board.py \
		tests/core/test_histogram.py tests/core/test_buckets.py tests/system/test_form.py \
		tests/system/test_serve.py::test_no_answer_that_started_after_a_rollback_came_from_the_target

compiled: $(BUILT)

# Builds a wheel as a user's pip does, and takes the packages with compiled modules from it.
$(BUILT): $(COMPILED_FROM) | $(VENV)/.tests compiler
	rm -rf $(COMPILED)
	@mkdir -p $(COMPILED) && touch $(COMPILED)/.began  # a source changed after this moment makes the target stale
	PHASEGATE_COMPILE=require $(BIN)/python -m pip wheel -q --disable-pip-version-check --no-deps --no-build-isolation \
		-w $(COMPILED)/wheel .
	$(BIN)/python -m zipfile -e $(COMPILED)/wheel/*.whl $(COMPILED)/wheel
	mv $(COMPILED)/wheel/proxy $(COMPILED)/wheel/backends $(COMPILED)/wheel/*.so $(COMPILED)
	rm -r $(COMPILED)/wheel
	@mv $(COMPILED)/.began $@

compiler:
	@$(BIN)/python -c 'import sys, hatch_build; sys.exit(hatch_build.compiler() is None)' || { \
		echo "make: a C compiler or Python.h is missing; installing them with apt"; \
		$(APT) update -q && $(APT) install -qy --no-install-recommends gcc libc6-dev python3-dev; }

# Writes the generated documentation: the configuration, the code map, the states, the judge's rules.
docs: $(VENV)/.runs
	$(BIN)/python -m control.reference

# Takes the README's picture of the dashboard anew.
picture: $(VENV)/.tests $(VENDOR)/.fetched browser
	$(BIN)/python docs/picture.py

# Compares speed with other proxies (docs/performance.md). Needs a quiet machine with two processors: one for the
# proxy, one for the load.
bench: $(VENV)/.tests bench-tools compiled
	$(BIN)/python -m loadtest.bench $(or $(ARGS),--page docs/performance.md)

# Measures how cost grows with workers, connections, routes, migrations and bodies.
scale: $(VENV)/.tests bench-tools compiled
	$(BIN)/python -m loadtest.bench.scale $(or $(ARGS),--plots docs/performance --page docs/performance.md)

# The benchmark starts nginx and haproxy itself, so the services that Debian starts on installation are stopped.
bench-tools:
	@missing=$$(for p in nginx haproxy wrk; do command -v $$p >/dev/null || [ -x /usr/sbin/$$p ] || echo $$p; done); \
	if [ -n "$$missing" ]; then \
		echo "make: installing $$missing with apt for the benchmark"; \
		$(APT) update -q && $(APT) install -qy --no-install-recommends $$missing; \
		$(SUDO)systemctl disable -q --now $$(echo $$missing | sed s/wrk//) 2>/dev/null || true; \
	fi

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "make: Python 3.11 or newer is needed; install it, or name it: make PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip' 2>/dev/null || { \
		echo "make: python3-venv is missing; installing it with apt"; $(APT) update -q && $(APT) install -qy python3-venv; }
	"$(PYTHON)" -m venv $(VENV)

$(VENV)/.runs: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -q --disable-pip-version-check -e .
	@touch $@

$(VENV)/.tests: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[dev,load]'
	@touch $@ $(VENV)/.runs

# Fetches the libraries that the dashboard's page loads. axe-core stays in node_modules, for the browser test.
vendor: $(VENDOR)/.fetched

$(VENDOR)/.fetched: package.json package-lock.json
	@command -v npm >/dev/null || { echo "make: npm is missing; it fetches the dashboard's libraries: install Node.js 18 or newer" >&2; exit 1; }
	npm ci --silent --no-fund --no-audit
	@mkdir -p $(VENDOR)
	cp node_modules/htm/preact/standalone.module.js $(VENDOR)/htm-preact.js
	cp node_modules/uplot/dist/uPlot.esm.js $(VENDOR)/uPlot.js
	cp node_modules/uplot/dist/uPlot.min.css $(VENDOR)/uPlot.css
	@touch $@

browser:
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || { \
		echo "make: chromium is missing; installing it with apt for the browser test"; \
		$(APT) update -q && $(APT) install -qy --no-install-recommends chromium; }

clean:
	rm -rf $(VENV) $(VENDOR) node_modules build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
