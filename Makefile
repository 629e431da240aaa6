# Two commands for a fresh machine: `make demo` and `make test`. Both set up what they need first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test test-windows check pyright docs docs-site bench fuzz matrix setup package packages zipapp clean

demo: setup packages
	$(BIN)/warpgate demo

# What is compiled once is not compiled again by each of the hundreds of programs that the tests start.
unexport PYTHONDONTWRITEBYTECODE

# As many tests at a time as there are CPUs, then one by one those that measure time.
test: setup packages
	$(BIN)/python -m pytest -n auto --dist worksteal -m 'not alone' --durations 10; together=$$?; \
	$(BIN)/python -m pytest -m alone && exit $$together

# What differs between systems, the pipes and the program, on CPython for Windows under Wine, then between it and Linux
# in the lab: some 8 minutes, and a minute and 800 MB more the first time. Not part of .ci/run.
WINDOWS ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/warpgate-windows
ON_WINDOWS := tests/portable tests/unit/platform/test_windows_wire.py tests/unit/testing tests/cascade/test_fast_start.py
test-windows: setup packages
	tools/windows.sh $(WINDOWS) -m pytest -p no:cacheprovider --timeout 300 $(ON_WINDOWS) $(TESTS)
	WINDOWS=$(WINDOWS) $(BIN)/python -m pytest -m long tests/lab/test_lab_windows.py

# The wheel and the sdist, checked and installed where nothing else is: by pip, by pipx, as a zipapp.
package: setup
	tools/package.sh $(BIN)/python

# One file that runs on this system with this Python, to be copied to machines like this one.
zipapp: setup
	mkdir -p dist
	tools/zipapp.sh $(BIN)/python dist/warpgate.pyz

check: setup
	$(BIN)/ruff check --no-cache src testing tests bench
	$(BIN)/ruff format --no-cache --check src testing tests bench
	printf '%s\n' linux win32 darwin | xargs -P 3 -I % $(BIN)/mypy --platform % --cache-dir .mypy_cache/%
	$(BIN)/python -m pytest tests/test_architecture.py

# The documents' programs as pyright sees them; `make check` asks mypy alone. 280 MB more, with its Node.js.
pyright: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'basedpyright>=1.20'
	$(BIN)/python -m pytest -m long tests/test_types.py

# The parts of docs/configuration.md and docs/messages.md that are made of the source.
docs: setup
	$(BIN)/python tools/command_reference.py
	$(BIN)/python tools/messages.py

# The pages as a site, in site/; links that lead nowhere are errors.
docs-site: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

bench: setup packages
	$(BIN)/python -m bench

# Each decoder that a stranger reaches, for SECONDS each; without coverage where atheris does not install.
fuzz: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'atheris>=3' || true
	SECONDS=$(or $(SECONDS),5) $(BIN)/python tests/fuzz $(TARGETS)

# Every pair of NAT kinds, half an hour; `make matrix RESUME=1` goes on where it was stopped.
matrix: setup packages
	$(BIN)/warpgate lab matrix --json docs/matrix.json --svg docs/matrix.svg $(if $(RESUME),--resume)

setup: $(STAMP)

$(STAMP): pyproject.toml testing/pyproject.toml
	tools/venv.sh $(PYTHON) $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]' --editable testing
	touch $(STAMP)

# Real peers for the tests: mosquitto, coturn, miniupnpd, nftables, Chromium. Installed only as root and only where missing.
packages:
	tools/packages.sh

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage dist
