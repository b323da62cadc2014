# make run             everything on this machine, with a key and a curl line to paste
# make unit            the tests that need no server, in 20 s
# make fmt             formats the code, and mends what ruff can mend
# make test            every test
# make check           format, lint, types, architecture and every test: what CI runs
# make bench           CPU a call; bench-peers: next to other gateways
# make test-compose    the deployment in containers
# make test-clients    coding agents and frameworks through the gateway; writes their tables into docs/clients.md
# Needs Python 3.11 or newer; no compiler, no root, no Docker: but test-compose starts a container engine, and test-clients
# needs npm.
PYTHON ?= python3
BIN := .venv/bin
# Modules of tests run beside each other, with a Redis and servers of their own: three at once keep two cores busy.
TEST_WORKERS ?= 3
TESTS := -n $(TEST_WORKERS) --dist loadscope

.PHONY: run unit fmt test test-compose test-clients check bench bench-peers requirements clean

run: .venv/stamp
	@$(BIN)/python -m scripts.run

# Without what needs Redis or another process (marked by tests/conftest.py) and what takes half a second or more.
unit: .venv/stamp-dev
	$(BIN)/python -m pytest -n 2 --dist worksteal -m 'not server and not slow' tests/unit tests/test_docs.py tests/test_names.py

fmt: .venv/stamp-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test: .venv/stamp-dev
	$(BIN)/python -m pytest $(TESTS)

# The deployment for real: images, docker-compose, TLS. Needs root (or a running engine) and Debian's packages
# docker.io, docker-compose and debootstrap; base images are made here, none is pulled.
test-compose: .venv/stamp-dev
	$(BIN)/python -m pytest -m compose -rP tests/e2e/compose

# Coding agents as their makers publish them on npm (more than a gigabyte), and frameworks in an environment of their own:
# below .cache/, which is kept.
test-clients: .venv/stamp-dev .cache/clients/stamp .cache/sdks/stamp
	$(BIN)/python -m pytest -n 2 --dist loadscope -m clients tests/clients

# No script of a package is run: the programs are used as they are packed.
.cache/clients/stamp: tests/clients/package.json tests/clients/package-lock.json
	mkdir -p $(@D)
	cp $^ $(@D)
	cd $(@D) && npm ci --ignore-scripts --no-audit --no-fund
	touch $@

.cache/sdks/stamp: requirements-clients.txt
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r $<
	touch $@

check: .venv/stamp-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest $(TESTS) --cov=app --cov-report=term:skip-covered

bench: .venv/stamp-dev
	$(BIN)/python -m bench.run
	$(BIN)/python -m bench.queue

# The same, with other gateways beside ours, installed below .bench/ (some gigabytes).
bench-peers: .venv/stamp-dev
	$(BIN)/python -m bench.peers
	$(BIN)/python -m bench.run peers
	$(BIN)/python -m bench.queue

# `make run PYTHON=python3.12` makes a .venv of another Python anew.
ifneq ($(origin PYTHON),file)
ifneq ($(shell $(PYTHON) -V 2>&1),$(shell $(BIN)/python -V 2>&1))
.PHONY: .venv/stamp
endif
endif

# What `make run` needs; a second run does not get here. What the tests and checks need comes on top.
.venv/stamp: requirements.txt requirements-run.txt
	@$(PYTHON) scripts/install.py run

.venv/stamp-dev: .venv/stamp requirements-dev.txt
	@$(PYTHON) scripts/install.py dev

# Locks for every Python from 3.11 on, by uv (pip install uv). To have newer versions: LOCK=--upgrade.
requirements:
	for name in requirements requirements-run requirements-dev requirements-clients; do \
	    uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --strip-extras \
	        --custom-compile-command 'make requirements' $(LOCK) --output-file $$name.txt $$name.in || exit 1; \
	done

clean:
	rm -rf .venv data .coverage* .pytest_cache .mypy_cache .ruff_cache
