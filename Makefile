# Every target prepares what it needs: a fresh machine needs only make and Python 3.10 or newer.
#   make test PYTHON=python3.12          another interpreter (for a new environment)
#   make test ARGS="-k split -x"         more arguments, here for pytest; the demo and the benchmarks take them, too

PYTHON ?= python3
ARGS ?=

# On many cores more workers are faster; each imports torch, about half a GB of memory.
WORKERS ?= 2

VENV := .venv
BIN := $(VENV)/bin

# What needs no package but hairify's own requirements.
CORE := tests/support tests/functional tests/planning tests/nn tests/test_conversion.py tests/test_surgery.py \
  tests/test_serialization.py
OLDEST := .venv-oldest
PACKAGED := .venv-packaged

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:  # two installs into one environment would collide
.PHONY: help demo bench bench-kernels bench-calls bench-planning bench-tool bench-gpu evidence second-stages test test-slow test-oldest zoo zoo-page commands-page package docs check clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/.installed-tool ## run the demo
	$(BIN)/python -m hairify demo $(ARGS)

bench: $(VENV)/.installed-bench ## measure time and memory of converted networks, about twenty minutes on two cores
	$(BIN)/python -m benchmarks $(ARGS)

bench-kernels: $(VENV)/.installed-bench ## measure the kernels by which per-image operations are computed
	$(BIN)/python -m benchmarks.kernels $(ARGS)

bench-calls: $(VENV)/.installed-bench ## measure what a call of a hyper layer takes beside the ordinary layer's
	$(BIN)/python -m benchmarks.calls $(ARGS)

bench-planning: $(VENV)/.installed-bench ## measure what converting takes, in seconds and memory
	$(BIN)/python -m benchmarks.planning $(ARGS)

bench-tool: $(VENV)/.installed-tool ## measure what training, loading, restoring and starting cost beside the network
	$(BIN)/python -m benchmarks.tool $(ARGS)

# In no environment of its own: the PyTorch that is installed is the one for this GPU.
bench-gpu: ## test and measure on a GPU, nine minutes, with the PyTorch that PYTHON has
	$(PYTHON) -m benchmarks.gpu $(ARGS)

evidence: $(VENV)/.installed-test ## train converted and unconverted networks and compare them: hours; ARGS=--quick a minute
	$(BIN)/python -m benchmarks.evidence $(ARGS)

second-stages: $(VENV)/.installed-test ## teach a denoiser haze, and see what it forgets: an hour on one core
	$(BIN)/python -m benchmarks.second_stages $(ARGS)

test: $(VENV)/.installed-test ## run the tests, without the heavy ones
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not slow and not zoo" $(ARGS)

test-slow: $(VENV)/.installed-test ## run the heavy tests only
	@# pytest exits with 5 where no test is marked slow
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m slow $(ARGS) || [ $$? -eq 5 ]

test-oldest: $(OLDEST)/.installed ## run the core's tests on the oldest PyTorch supported (its wheel takes gigabytes)
	CI= $(OLDEST)/bin/python -m pytest -n $(WORKERS) --dist worksteal -m "not slow and not zoo" $(CORE) $(ARGS)

zoo: $(VENV)/.installed-zoo ## run the tests on public networks, and compare with their table in docs/zoo.md
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m zoo $(ARGS)

zoo-page: $(VENV)/.installed-zoo ## measure them anew, and write docs/zoo.md
	rm -rf zoo-output
	HAIRIFY_ZOO_RESULTS=zoo-output $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m zoo $(ARGS)
	$(BIN)/python tests/helpers/zoo_table.py zoo-output docs/zoo.md

commands-page: $(VENV)/.installed-test ## write docs/commands.md anew
	PYTHONPATH=tests/helpers $(BIN)/python tests/helpers/commands_page.py docs/commands.md

package: $(VENV)/.installed-package ## build sdist and wheel, check them, and try the wheel in an environment of its own
	rm -rf dist $(PACKAGED)
	$(BIN)/python -m build --quiet
	$(BIN)/twine check --strict dist/*
	$(PYTHON) -m venv $(PACKAGED)
	$(PACKAGED)/bin/python -m pip install --quiet --constraint constraints.txt "$$(echo dist/*.whl)[tool]"
	cd $(PACKAGED) && bin/python $(CURDIR)/tests/helpers/try_package.py

docs: $(VENV)/.installed-docs ## build the documentation's site, site-output/index.html
	$(BIN)/mkdocs build --strict --site-dir site-output

check: $(VENV)/.installed-dev ## lint, format, types and which room imports which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean: ## remove the environments, caches and builds
	rm -rf $(VENV) $(OLDEST) $(PACKAGED) build dist demo-output bench-output evidence-output second-stages-output site-output zoo-output
	rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps: a second call installs again only if the requirements have changed.
$(VENV)/.installed-%: pyproject.toml constraints.txt $(VENV)/.created
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[$*]'
	@touch $@

$(OLDEST)/.installed: pyproject.toml
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet 'pip>=21.3'
	$(OLDEST)/bin/python -m pip install 'torch==2.6.0' hypothesis pytest pytest-xdist --editable .
	@touch $@

$(VENV)/.created:
	@command -v $(PYTHON) >/dev/null || \
	  { echo "error: '$(PYTHON)' was not found; name a Python >= 3.10: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "error: $$($(PYTHON) --version) is too old; name a Python >= 3.10: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "error: $(PYTHON) lacks venv or ensurepip. On Debian and Ubuntu: apt install python3-venv;" \
	    "or name another Python: make PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@# 21.3 is the first pip with editable installs from pyproject.toml; Python 3.10.0 brings an older one
	$(BIN)/python -m pip install --quiet 'pip>=21.3'
	@touch $@
