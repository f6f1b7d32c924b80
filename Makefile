# One command each: `make run` serves, `make test` checks everything that CI checks.
# Needs python3 (3.11 or newer) and make; everything else goes into .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --quiet

# Handed on: `make run ARGS="--port 9000"`, `make bench ARGS="--sessions 4"`, `make test ARGS="-k websocket"`.
ARGS ?=

MAKEFLAGS += --no-print-directory
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_ROOT_USER_ACTION := ignore
export PIP_NO_INPUT := 1

.PHONY: run test lint bench clean system-packages

run: $(VENV)/.runtime
	@$(BIN)/crosstalk serve $(ARGS)

# pytest comes last and make says nothing after it: the last line is pytest's own.
test: lint system-packages
	@$(BIN)/python -m pytest $(ARGS)

lint: $(VENV)/.dev
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

bench: $(VENV)/.runtime
	@$(BIN)/crosstalk bench $(ARGS)

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find client onnx_export server streaming_models tests -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps live in .venv: they go when it goes, and a second run finds nothing to do.
$(VENV)/.created:
	@command -v $(PYTHON) >/dev/null || { echo "crosstalk needs python3 (3.11 or newer), found none" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "crosstalk needs Python 3.11 or newer, found $$($(PYTHON) --version 2>&1);" \
			"name another one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "crosstalk needs Python's venv and ensurepip, found none;" \
			"on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/.runtime: pyproject.toml $(VENV)/.created
	@echo "Installing Crosstalk into $(VENV): takes a minute, once."
	@$(PIP) install --editable .
	@touch $@

# setuptools: tests/test_packaging.py builds the wheel without fetching anything.
$(VENV)/.dev: pyproject.toml $(VENV)/.created
	@echo "Installing Crosstalk and its development tools into $(VENV): takes two minutes, once."
	@$(PIP) install --editable '.[dev]' 'setuptools>=77'
	@touch $@ $(VENV)/.runtime

# What the tests need beyond Python: a browser for the page, PortAudio for the microphone.
system-packages: $(VENV)/.dev
	@missing=""; \
	command -v chromium >/dev/null || missing="$$missing chromium"; \
	$(BIN)/python -c 'import sounddevice' 2>/dev/null || missing="$$missing libportaudio2"; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	root=""; if [ "$$(id -u)" != 0 ]; then root="sudo -n"; fi; \
	if ! command -v apt-get >/dev/null || ! $$root true 2>/dev/null; then \
		echo "the tests need these Debian packages:$$missing; install them and run make test again" >&2; exit 1; \
	fi; \
	echo "Installing Debian packages for the tests:$$missing"; \
	$$root apt-get update -qq && \
	$$root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $$missing >/dev/null
