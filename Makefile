# Two commands for a newcomer, `make demo` and `make test`; both set `.venv` up by themselves, once.
.DEFAULT_GOAL := help
SHELL := /bin/sh

# The first Python >= 3.11 found; another one: make setup PYTHON=/path/to/python3.12
PYTHON ?= $(firstword $(foreach name,python3 python3.13 python3.12 python3.11 python3.14,$(shell \
	$(name) -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $(name))))
# The interpreters that `make pins` resolves for.
PYTHONS ?= python3.11 python3.12 python3.13

# Packages are installed uncompiled, and compiled at their first import: where that may not be kept, each of Airflow's
# many processes would compile them anew, which takes it three times as long to start.
unexport PYTHONDONTWRITEBYTECODE

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

# The other Airflows that the tests run on: a file of pins and an environment each.
AIRFLOW := $(shell sed -n 's/^apache-airflow==//p' requirements/dev.txt)
OTHER_AIRFLOWS := $(patsubst requirements/airflow-%.txt,%,$(wildcard requirements/airflow-*.txt))
AIRFLOW_STAMPS := $(foreach version,$(OTHER_AIRFLOWS),$(call \
	vendor_stamp,airflow-$(version),pyproject.toml requirements/airflow-$(version).txt))
# These run on Python 3.12 at the newest.
OLDER_PYTHON = $(firstword $(foreach name,$(PYTHON) python3.12 python3.11,$(shell \
	$(name) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' >/dev/null 2>&1 && echo $(name))))

CLUSTER_STAMP := $(call vendor_stamp,cluster,pyproject.toml requirements/cluster.txt)
# In the cluster's environment, which is made anew without it.
SSH_STAMP := $(call vendor_stamp,cluster,requirements/bench-ssh.txt)-ssh
DOCS_STAMP := $(call vendor_stamp,docs,requirements/docs.txt)

.PHONY: help setup vendor demo test workerless browser chaos test-airflow package-test soak docs lint format bench bench-airflow pins clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

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

test-airflow: ## run the unit and integration tests on another Airflow: VERSION=3.0.6
	@case " $(AIRFLOW) $(OTHER_AIRFLOWS) " in *" $(or $(VERSION),none) "*) ;; *) \
		echo "make test-airflow VERSION=...: there are pins for $(AIRFLOW) and for $(OTHER_AIRFLOWS)," \
			"not for '$(VERSION)'" >&2; exit 1;; esac
	@$(MAKE) --no-print-directory $(if $(filter $(AIRFLOW),$(VERSION)),$(STAMP),$(filter \
		$(VENDOR)/airflow-$(VERSION)/%,$(AIRFLOW_STAMPS)))
	@$(if $(filter $(AIRFLOW),$(VERSION)),$(VENV),$(VENDOR)/airflow-$(VERSION))/bin/python -m pytest \
		tests/unit tests/integration $(ARGS)

chaos: $(STAMP) ## cut, spoil and kill what stands between a task and its process; SBX_CHAOS_SEEDS=20 for more
	@$(RUN) -m pytest tests/chaos $(ARGS)

workerless: $(STAMP) ## test tasks that end in the triggerer, or start there, as make test does the others
	@$(RUN) -m pytest tests/integration -m workerless $(ARGS)

browser: $(STAMP) ## use Airflow's pages in Debian's Chromium; SBX_SCREENSHOTS=1 takes the pictures of docs/images
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || { \
		echo "make browser: there is no Chromium (Debian: apt-get install chromium fonts-dejavu-core)" >&2; exit 1; }
	@$(RUN) -m pytest tests/browser $(ARGS)

soak: $(CLUSTER_STAMP) ## kill parts of a whole cluster at random for SECONDS=300, with TASKS=120 and SEED=...
	@SBX_SOAK_SECONDS=$(or $(SECONDS),300) SBX_SOAK_TASKS=$(or $(TASKS),120) SBX_SOAK_SEED=$(SEED) \
		$(VENDOR)/cluster/bin/python -m pytest tests/soak -s $(ARGS)

$(CLUSTER_STAMP):
	@echo "soak: installing Airflow with Celery into $(@D) (once)"
	@$(PYTHON) -m venv --clear $(@D)
	@$(@D)/bin/python -m pip install $(PIP_FLAGS) "$$(grep '^pip==' requirements/cluster.txt)"
	@$(@D)/bin/python -m pip install $(PIP_FLAGS) --no-compile -r requirements/cluster.txt
	@$(@D)/bin/python -m pip install $(PIP_FLAGS) --no-compile --no-deps --no-build-isolation -e .
	@touch $@

$(AIRFLOW_STAMPS): $(VENDOR)/airflow-%:
	@if [ -z "$(OLDER_PYTHON)" ]; then \
		echo "Airflow $(firstword $(subst /, ,$*)) needs Python 3.11 or 3.12, and neither was found:" \
			"name one by PYTHON=/path/to/python3.12" >&2; exit 1; fi
	@echo "test-airflow: installing Airflow $(firstword $(subst /, ,$*)) into $(@D) (once)"
	@$(OLDER_PYTHON) -m venv --clear $(@D)
	@$(@D)/bin/python -m pip install $(PIP_FLAGS) \
		"$$(grep '^pip==' requirements/airflow-$(firstword $(subst /, ,$*)).txt)"
	@$(@D)/bin/python -m pip install $(PIP_FLAGS) --no-compile \
		-r requirements/airflow-$(firstword $(subst /, ,$*)).txt
	@$(@D)/bin/python -m pip install $(PIP_FLAGS) --no-compile --no-deps --no-build-isolation -e .
	@touch $@

package-test: $(STAMP) ## build the wheel and the source distribution and install them with each of PYTHONS
	@SBX_PACKAGE_PYTHONS="$(PYTHONS)" $(RUN) -m pytest tests/packaging $(ARGS)

docs: $(DOCS_STAMP) ## build the documentation into site/; a warning is an error
	@NO_MKDOCS_2_WARNING=1 $(VENDOR)/docs/bin/mkdocs build --strict --clean
	@echo "docs: site/index.html"

$(DOCS_STAMP):
	@echo "docs: installing MkDocs into $(@D) (once)"
	@$(PYTHON) -m venv --clear $(@D)
	@$(@D)/bin/python -m pip install $(PIP_FLAGS) -r requirements/docs.txt
	@touch $@

lint: $(STAMP) ## check style, types, import directions and that nothing of this machine got in
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(VENV)/bin/lint-imports
	$(RUN) -m dev.check_tree

format: $(STAMP) ## format the code and fix what ruff can fix
	$(RUN) -m ruff format .
	$(RUN) -m ruff check --fix .

# Those that need a whole Airflow.
AIRFLOW_BENCHES := airflow exit_to_success sizing triggerer_log
CLIENT_BENCHES := $(filter-out $(AIRFLOW_BENCHES),$(patsubst benchmarks/bench_%.py,%,$(wildcard benchmarks/bench_*.py)))

bench: $(STAMP) $(VENDOR_PYTHON_STAMPS) ## run the benchmarks of the client and of parsing; each prints JSON; BENCH=client runs one
	@for name in $(or $(BENCH),$(CLIENT_BENCHES)); do \
		echo "# $$name"; $(RUN) -m benchmarks.bench_$$name || exit 1; done

bench-airflow: $(CLUSTER_STAMP) $(if $(SSH),$(SSH_STAMP)) ## run those of a real Airflow on PostgreSQL: tasks a minute by each way (SSH=1 adds SSH), or BENCH=sizing, triggerer_log, exit_to_success
	@for name in $(or $(BENCH),airflow); do \
		echo "# $$name"; $(VENDOR)/cluster/bin/python -m benchmarks.bench_$$name || exit 1; done

$(SSH_STAMP): | $(CLUSTER_STAMP)
	@echo "bench-airflow: installing Airflow's SSH provider into $(@D) (once)"
	@$(@D)/bin/python -m pip install $(PIP_FLAGS) --no-compile --no-deps -r requirements/bench-ssh.txt
	@touch $@

pins: ## resolve requirements/*.txt of each Airflow anew with PYTHONS="python3.11 python3.12 python3.13"
	$(firstword $(PYTHONS)) dev/pins.py $(PYTHONS)

clean: ## remove all that the other targets made, .venv too
	rm -rf $(VENV) $(VENDOR) .demo .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis build dist site
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
