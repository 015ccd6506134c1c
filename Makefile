# Two commands for a newcomer, `make demo` and `make test`; both set `.venv` up by themselves, once.
.DEFAULT_GOAL := help
SHELL := /bin/sh

# The first Python >= 3.11 found; another one: make setup PYTHON=/path/to/python3.12
PYTHON ?= $(firstword $(foreach name,python3 python3.13 python3.12 python3.11 python3.14,$(shell \
	$(name) -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $(name))))
# The interpreters that `make pins` resolves for.
PYTHONS ?= python3.11 python3.12 python3.13

VENV := .venv
RUN := $(VENV)/bin/python
PIP_FLAGS := --quiet --disable-pip-version-check --no-input
# Named by what it was made from: set-up runs again when the project's requirements or its place change.
STAMP := $(VENV)/.ready-$(shell (pwd; cat pyproject.toml requirements/dev.txt) | cksum | tr -d ' ')

# The vendor's clients, which the tests hold the embedded server and our clients against. Each has an environment
# of its own: what they need mustn't mix with Airflow's pins.
VENDOR := .venvs
vendor_stamp = $(VENDOR)/$(1)/.ready-$(shell (pwd; cat $(2)) | cksum | tr -d ' ')
VENDOR_PYTHON_STAMPS := $(foreach version,1.14.0 1.3.0,$(call \
	vendor_stamp,hyperbrowser-$(version),requirements/vendor-hyperbrowser-$(version).txt))
VENDOR_NODE_STAMP := $(call vendor_stamp,node,requirements/vendor-node/package.json)
# Without Node its tests are skipped; CI installs it.
HAS_NODE := $(and $(shell command -v node),$(shell command -v npm))

.PHONY: help setup vendor demo test lint format bench pins clean

help: ## show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

setup: $(STAMP) ## make .venv with the pinned packages (the other targets do this when needed)

$(STAMP):
	@if [ -z "$(PYTHON)" ]; then \
		echo "No Python 3.11 or newer was found. Install one, or name it: make PYTHON=/path/to/python3" >&2; \
		exit 1; fi
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "$(PYTHON) is older than Python 3.11 (or isn't a Python)" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
		echo "$(PYTHON) can't make virtual environments: install its venv module" \
			"(Debian: apt-get install python3-venv)" >&2; exit 1; }
	@echo "setup: installing the pinned packages into $(VENV) (once, a minute or so)"
	@[ -x $(RUN) ] && $(RUN) -c '' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	@$(RUN) -m pip install $(PIP_FLAGS) "$$(grep '^pip==' requirements/dev.txt)"
	@# Not compiled here: most modules are never imported, and the others are compiled at their first import.
	@$(RUN) -m pip install $(PIP_FLAGS) --no-compile -r requirements/dev.txt
	@$(RUN) -m pip install $(PIP_FLAGS) --no-compile \
		--no-deps --no-build-isolation -e .
	@rm -f $(VENV)/.ready-*
	@touch $@

vendor: $(VENDOR_PYTHON_STAMPS) $(if $(HAS_NODE),$(VENDOR_NODE_STAMP)) ## install the vendor's clients, for the tests

$(VENDOR_PYTHON_STAMPS): $(VENDOR)/hyperbrowser-%: | $(STAMP)
	@echo "vendor: installing hyperbrowser $(firstword $(subst /, ,$*)) into $(@D)"
	@$(RUN) -m venv --clear --without-pip $(@D)
	@$(RUN) -m pip --python $(@D)/bin/python install $(PIP_FLAGS) \
		-r requirements/vendor-hyperbrowser-$(firstword $(subst /, ,$*)).txt
	@touch $@

$(VENDOR_NODE_STAMP):
	@echo "vendor: installing Node's @hyperbrowser/sdk into $(@D)"
	@rm -rf $(@D) && mkdir -p $(@D) && cp requirements/vendor-node/package.json $(@D)
	@npm install --prefix $(@D) --loglevel=error --no-audit --no-fund --no-package-lock --ignore-scripts \
		>/dev/null
	@touch $@

demo: $(STAMP) ## run the example DAGs on a real Airflow and a local sandbox server; KEEP=1 leaves the UI up
	@$(RUN) -m dev.demo $(if $(KEEP),--keep)

test: $(STAMP) vendor ## run all tests; ARGS="-k name" picks some
	@$(RUN) -m pytest $(ARGS)

lint: $(STAMP) ## check style, types, import directions and that nothing of this machine got in
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(VENV)/bin/lint-imports
	$(RUN) -m dev.check_tree

format: $(STAMP) ## format the code and fix what ruff can fix
	$(RUN) -m ruff format .
	$(RUN) -m ruff check --fix .

bench: $(STAMP) ## run the benchmarks; each prints JSON
	@for file in benchmarks/bench_*.py; do \
		if [ -e "$$file" ]; then echo "# $$file"; $(RUN) -m benchmarks.$$(basename "$$file" .py) || exit 1; fi; done

pins: ## resolve requirements/dev.txt anew with PYTHONS="python3.11 python3.12 python3.13"
	$(firstword $(PYTHONS)) dev/pins.py $(PYTHONS)

clean: ## remove all that the other targets made, .venv too
	rm -rf $(VENV) $(VENDOR) .demo .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis build dist site
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
