# make burst   a true burst of 600 users against a real LiveKit server on this machine
# make test    all tests
# make check   lint, format and types
USERS ?= 600
VENV  := .venv
BIN   := $(VENV)/bin
# The first Python from this list that is 3.11 or newer.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)

.PHONY: burst test check clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

# Make itself ends with 2 whenever a command fails; the run's own exit code is the number that it prints.
burst: $(VENV)/.ready
	@$(BIN)/lk-users stack -- $(BIN)/locust -f locustfiles/burst.py --headless --only-summary \
		-u $(USERS) -r $(USERS) --agent-name welcome $(ARGS)

test: $(VENV)/.ready-dev
	@$(BIN)/pytest $(ARGS)

check: $(VENV)/.ready-dev
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

$(VENV)/.ready: pyproject.toml
	@test -n "$(PYTHON)" || { echo "lk-users: no Python 3.11 or newer found; name one: make PYTHON=/path/to/python3" >&2; exit 12; }
	@echo "lk-users: making the environment in $(VENV) (about half a minute, only this once) …" >&2
	@$(PYTHON) -m venv $(VENV) || { echo "lk-users: $(PYTHON) has no venv; on Debian: apt install python3-venv" >&2; exit 12; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.ready-dev: $(VENV)/.ready
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

clean:
	@rm -rf $(VENV) build *.egg-info
