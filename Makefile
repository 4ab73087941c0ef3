# One word per job. `make` lists them.
SHELL := bash
.DEFAULT_GOAL := help
.PHONY: help install demo test test-browser test-cluster check golden lock clean

PYTHON ?= python3
# Passed on to the word's program: make test ARGS="-k masks", make lock ARGS=--upgrade
ARGS ?=

VENV := .venv
LOCK := requirements.lock
STAMP := $(VENV)/.installed
INSTALL_LOG := $(VENV)/install.log
LOCK_VENV := .venv-lock
UV_VERSION := 0.13.8

# What is installed and where: an environment does not survive a move of its folder.
WANTED := { echo "\# $(CURDIR)"; cat $(LOCK); }

help: ## list the words
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# The stamp is written last, so an install that was interrupted or failed is done again, from an
# empty environment. The dots come from a second process that ends with this shell.
install: ## make .venv with the exact packages of requirements.lock (PYTHON=python3.12 chooses)
	@if $(WANTED) | cmp -s - $(STAMP) && $(VENV)/bin/python -c '' 2>/dev/null; then exit 0; fi; \
	set -e; \
	command -v $(PYTHON) >/dev/null || { echo '$(PYTHON) was not found: name a Python 3.10 or newer, as in: make install PYTHON=python3.12' >&2; exit 1; }; \
	$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit("Python 3.10 or newer is needed and $(PYTHON) is %d.%d: name another, as in: make install PYTHON=python3.12" % v[:2] if v < (3, 10) else 0)'; \
	start=$$(date +%s); \
	printf 'Installing %s into %s (about 90 seconds) ' $(LOCK) $(VENV); \
	(while sleep 3 >/dev/null 2>&1 && kill -0 $$$$ 2>/dev/null; do printf .; done) & \
	trap "kill $$! 2>/dev/null" EXIT; \
	rm -f $(STAMP); \
	$(PYTHON) -m venv --clear $(VENV); \
	if ! $(VENV)/bin/python -m pip install --no-input --disable-pip-version-check \
	    --progress-bar off -r $(LOCK) >$(INSTALL_LOG) 2>&1; then \
	  printf '\npip failed. The end of %s:\n' $(INSTALL_LOG) >&2; tail -n 20 $(INSTALL_LOG) >&2; exit 1; \
	fi; \
	$(WANTED) >$(STAMP); \
	echo " done in $$(($$(date +%s) - start)) s"

demo: install ## run the main job on a small text that is already there
	@PATH="$(CURDIR)/$(VENV)/bin:$$PATH" bash runs/demo.sh

test: install ## run the tests; ARGS="-k masks" selects some
	@$(VENV)/bin/python -m pytest --durations=10 $(ARGS)

test-cluster: install ## run the tests that need servers or many processes; installs Slurm
	@bash tests/cluster/install_servers.sh
	@$(VENV)/bin/python -m pytest --durations=10 -m cluster $(ARGS)

test-browser: install ## run the tests of pages in a real browser; installs Debian's chromium
	@command -v chromium >/dev/null && command -v chromedriver >/dev/null \
	|| { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y \
	     --no-install-recommends chromium chromium-driver; } >/dev/null
	@$(VENV)/bin/python -m pytest --durations=5 tests/browser $(ARGS)

check: install ## look for mistakes and for other formatting than ruff's
	@$(VENV)/bin/python -m ruff check .
	@$(VENV)/bin/python -m ruff format --check .

golden: install ## write the expected loss series anew; the commit says why
	@$(VENV)/bin/python -m pytest tests/test_golden.py --update_golden $(ARGS)

# Versions stay as they are unless pyproject.toml rules them out; ARGS=--upgrade takes the newest.
lock: ## write requirements.lock from pyproject.toml; ARGS=--upgrade takes newer versions
	@$(PYTHON) -m venv $(LOCK_VENV)
	@$(LOCK_VENV)/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@$(LOCK_VENV)/bin/uv pip compile pyproject.toml --quiet --no-python-downloads --no-emit-index-url \
	  --universal --python-version 3.10 --extra dev --annotation-style line --no-header \
	  --output-file $(LOCK) $(ARGS) >/dev/null
	@if grep -E '^(nvidia|cuda|triton)' $(LOCK); then \
	  echo 'CUDA packages belong to torch: add their names to exclude-dependencies in pyproject.toml' >&2; exit 1; fi
	@{ echo '# Exact versions for Python 3.10 to 3.13. Written from pyproject.toml by:'; \
	   echo '#     make lock'; \
	   echo '# (make lock ARGS=--upgrade takes newer versions). CUDA packages are not named here:'; \
	   echo '# the GPU build of torch pins its own, the CPU build needs none.'; \
	   cat $(LOCK); } >$(LOCK).new && mv $(LOCK).new $(LOCK)
	@echo 'Wrote $(LOCK).'

clean: ## remove caches and what the demo wrote; .venv stays
	@{ find . -name .git -prune -o -name '.venv*' -prune -o -type d -name __pycache__ -print -prune; \
	   for path in .pytest_cache .ruff_cache build *.egg-info demo $(LOCK_VENV); do \
	     if [ -e "$$path" ]; then echo "./$$path"; fi; done; } \
	| while IFS= read -r path; do echo "removing $$path"; rm -rf -- "$$path"; done
