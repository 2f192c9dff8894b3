# Tailrace. Needs a Python of 3.11 or newer; everything else is installed into .venv.
#
#   make demo                   the whole path on this machine, from nothing
#   make test ARGS="-k lease"   what to hand to pytest
#   make PYTHON=/path/python3   with this interpreter instead of the newest on PATH
#
# For GNU make 3.81 and any POSIX shell. The checkout may lie under a path with blanks: everything here is relative.

SHELL = /bin/sh
.SUFFIXES:
.DELETE_ON_ERROR:
.NOTPARALLEL:
MAKEFLAGS += --no-print-directory
.PHONY: help demo check halves test soak bounces chaos watch lint docs check-deploy clean venv which-python bench bench-quick dist audit

PYTHON ?=
ARGS ?=
BIN = .venv/bin

# A virtual environment does not survive being moved, so its stamps name the place it was made for. Nor does it survive
# the Python it was made with.
PLACE := $(shell pwd | cksum | cut -d ' ' -f 1)
HERE = .venv/.made-for-$(PLACE)
READY_TO_RUN = .venv/.runs-$(PLACE)
READY_TO_TEST = .venv/.tests-$(PLACE)
READY_FOR_DOCS = .venv/.docs-$(PLACE)
READY_TO_CHECK = .venv/.deploy-$(PLACE)

ifneq ($(shell $(BIN)/python -c 'print(1)' 2>/dev/null),1)
.PHONY: $(HERE)
endif

PIP_INSTALL = PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_USER=0 $(BIN)/python -m pip install --quiet --no-input -c constraints.txt

help:
	@echo 'make demo    run the demonstration: everything embedded, real servers, a killed worker'
	@echo 'make check   lint and the unit tests: a minute, for while you work'
	@echo 'make test    run all tests                 make lint    style, types, direction of imports'
	@echo 'make soak    the random schedules and texts of the tests, four times as many'
	@echo 'make bounces kill and restart workers 24 times under load, and one random schedule of faults'
	@echo 'make chaos   kill, cut and restart everything for CHAOS_SECONDS (300); SEED=S plays one schedule again'
	@echo 'make watch   a real Prometheus watches a schedule of chaos (WATCH_SECONDS); needs prometheus on PATH'
	@echo 'make docs    the documentation as a site, in site/: strict, links checked'
	@echo 'make check-deploy  what hadolint and the schemas of Compose and Kubernetes say of the files for deploying'
	@echo 'make dist    what is released, into dist/  make audit   known weaknesses of what is pinned'
	@echo 'make venv    install for development       make clean   remove .venv and caches, keep .tailrace'

demo: $(READY_TO_RUN)
	@$(BIN)/tailrace demo

# What to hand out first, and together: tests/order.py. With compiled files, else each of hundreds of processes compiles all
# of it again. Seven at a time on two cores: they wait a quarter of the time.
PYTEST = PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --no-loadscope-reorder

check: lint
	@$(PYTEST) -n 2 -q tests/unit $(ARGS)

test: $(READY_TO_TEST)
	@$(PYTEST) -n 7 $(ARGS)

# The blocking half of the Streams API, of its asyncio half.
halves: $(READY_TO_TEST)
	@$(BIN)/python tools/async_to_sync.py

soak: $(READY_TO_TEST)
	@SOAK=1 $(PYTEST) -n 3 tests/simulation tests/unit/ingest tests/integration/test_chunk_json_postgres.py $(ARGS)

# Not among the others: they take two minutes in which nothing else should run.
bounces: $(READY_TO_TEST)
	@$(BIN)/python -m pytest tests/chaos/test_bounces.py -s $(ARGS)

# Faults on real processes for CHAOS_SECONDS; SEED=S plays one schedule again. The last line is one JSON object.
# As it is: 300 s, and the core in virtual time until 100 000 schedules are played. Told how long: as many as fit,
# unless SIMULATED=N says how many.
CHAOS_SECONDS ?=
SIMULATED ?=
SEED ?=

chaos: $(READY_TO_TEST)
	@$(BIN)/python -m tests.chaos $(if $(CHAOS_SECONDS),--seconds $(CHAOS_SECONDS)) \
		$(if $(SIMULATED),--simulated $(SIMULATED)) $(if $(SEED),--seed $(SEED))

# Every query of the dashboard, the rules and the alerts is asked of a Prometheus that watched a schedule of faults; DRAW=1 draws
# docs/img/dashboard.svg with its figures. The dice decide what is to be seen: SEED=S plays one schedule again.
WATCH_SECONDS ?= 150
DRAW ?=

watch: $(READY_TO_TEST)
	@$(BIN)/python -m tests.chaos.watch --seconds $(WATCH_SECONDS) $(if $(SEED),--seed $(SEED)) $(if $(DRAW),--draw)

lint: $(READY_TO_TEST)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The pages of docs/ and those that tools/docs_site.py brings in. Its theme announces its own end and MkDocs 2: not here.
docs: $(READY_FOR_DOCS)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build
	@echo 'The site is in site/: open site/index.html, or serve it for the search: $(BIN)/python -m http.server -d site'

# Beside tests/unit/test_deploy_files.py, which knows our commands and settings: what others say of these files. KEDA's and the
# Prometheus Operator's objects have no schema here.
KUBERNETES = $(filter-out %kustomization.yaml,$(wildcard operate/kubernetes/base/*.yaml)) \
	operate/kubernetes/migrate.yaml operate/kubernetes/secrets.example.yaml

check-deploy: $(READY_TO_CHECK)
	$(BIN)/hadolint Dockerfile
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec compose.yaml
	$(BIN)/kubernetes-validate --strict --quiet $(KUBERNETES)

# Everything against its rivals (half an hour; needs Node and npm), and the regression gate of CI (a minute).
bench: $(READY_TO_TEST)
	@$(BIN)/python -m benchmarks $(ARGS)

bench-quick: $(READY_TO_TEST)
	@$(BIN)/python -m benchmarks.quick $(ARGS)

# Wheel, source archive, what the wheel brings with it (CycloneDX), and checksums: the same tree makes the same bytes.
dist: $(READY_TO_TEST)
	@$(BIN)/python tools/dist.py

audit: $(READY_TO_TEST)
	@$(BIN)/python tools/audit.py

venv: $(READY_TO_TEST)

$(READY_TO_RUN): $(HERE) pyproject.toml constraints.txt
	@echo 'Installing Tailrace into .venv (once; a minute or so)...'
	@$(PIP_INSTALL) -e '.[worker,embedded]'
	@touch $@

$(READY_TO_TEST): $(HERE) pyproject.toml constraints.txt
	@echo 'Installing Tailrace and its tools into .venv (once; a minute or so)...'
	@$(PIP_INSTALL) -e '.[worker,embedded,dev]'
	@touch $(READY_TO_RUN) $@

$(READY_FOR_DOCS): $(HERE) pyproject.toml constraints.txt
	@echo 'Installing what builds the site into .venv (once)...'
	@$(PIP_INSTALL) -e '.[docs]'
	@touch $@

$(READY_TO_CHECK): $(HERE) pyproject.toml constraints.txt
	@echo 'Installing what checks the files for deploying into .venv (once)...'
	@$(PIP_INSTALL) -e '.[deploy]'
	@touch $@

# One that somebody else made for this place and that works is taken as it is.
$(HERE):
	@if grep -qsF "$$(pwd)/.venv" .venv/pyvenv.cfg && $(BIN)/python -m pip --version >/dev/null 2>&1; then \
		touch $@; exit; \
	fi; \
	$(FIND_PYTHON); \
	echo "Making .venv with $$chosen (Python $$version)..."; \
	rm -rf .venv && "$$chosen" -m venv .venv && touch $@

which-python:
	@$(FIND_PYTHON); echo "$$chosen"

clean:
	@if [ -d .tailrace ] && [ -x $(BIN)/tailrace ]; then $(BIN)/tailrace down; fi
	rm -rf .venv build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find worker migrations tests -name __pycache__ -type d -prune -exec rm -rf {} +

# Sets $chosen and $version, or says what to install and stops. A candidate must really run (the shims of version
# managers exist for versions that are not there), be new enough, and be able to make an environment.
FIND_PYTHON = \
	chosen=''; broken=''; old=''; \
	set -- python3.14 python3.13 python3.12 python3.11 python3 python; \
	if [ -n '$(PYTHON)' ]; then set -- '$(PYTHON)'; fi; \
	for candidate in "$$@"; do \
		version=$$("$$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null </dev/null) || continue; \
		if ! "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then old="$$version"; continue; fi; \
		missing=$$("$$candidate" -c 'from importlib.util import find_spec as f; \
	print(" ".join(m for m in ("venv", "ensurepip", "ssl", "_ctypes") if not f(m)))'); \
		if [ -n "$$missing" ]; then broken="$${broken:-$$version without $$missing}"; continue; fi; \
		chosen="$$candidate"; break; \
	done; \
	if [ -z "$$chosen" ]; then $(COMPLAIN); exit 1; fi

COMPLAIN = \
	sudo='sudo '; if [ "$$(id -u)" = 0 ]; then sudo=''; fi; \
	exec >&2; \
	if [ -n "$$broken" ]; then \
		echo "Python $$broken: it cannot make a virtual environment. This mends it:"; \
		version="$${broken%% *}"; \
		if [ "$$(uname)" = Darwin ]; then echo "    brew reinstall python@$$version"; \
		elif command -v apt-get >/dev/null; then echo "    $${sudo}apt install python$$version-venv"; \
		elif command -v dnf >/dev/null; then echo "    $${sudo}dnf reinstall python$$version python$$version-libs"; \
		else echo "    install the rest of Python $$version (its modules $${broken\#* without }) with your package manager"; fi; \
	else \
		if [ -n '$(PYTHON)' ] && [ -z "$$old" ]; then echo "PYTHON=$(PYTHON) does not run."; \
		else echo "Tailrace needs Python 3.11 or newer; found: $${old:-none}. This mends it:"; fi; \
		if [ "$$(uname)" = Darwin ]; then echo '    brew install python@3.13'; \
		elif command -v apt-get >/dev/null; then \
			for new in 3.14 3.13 3.12 3.11 3; do apt-cache show "python$$new-venv" >/dev/null 2>&1 && break; done; \
			echo "    $${sudo}apt install python$$new python$$new-venv"; \
		elif command -v dnf >/dev/null; then echo "    $${sudo}dnf install python3.12"; \
		else echo '    install Python 3.11 or newer with your package manager, or: make PYTHON=/path/to/python3'; fi; \
	fi
