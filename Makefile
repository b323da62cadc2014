# make run | test | check | bench | test-compose. Needs Python 3.11 or newer; no root, no Docker, but
# for test-compose, which starts a container engine.
PYTHON ?= python3
BIN := .venv/bin
# Modules of tests run beside each other, with a Redis and servers of their own: three at once keep two cores busy.
TEST_WORKERS ?= 3
TESTS := -n $(TEST_WORKERS) --dist loadscope

.PHONY: run test test-compose check bench bench-peers requirements clean

run: .venv/stamp
	@$(BIN)/python -m scripts.run

test: .venv/stamp
	$(BIN)/python -m pytest $(TESTS)

# The deployment for real: images, docker-compose, TLS. Needs root (or a running engine) and Debian's packages
# docker.io, docker-compose and debootstrap; base images are made here, none is pulled.
test-compose: .venv/stamp
	$(BIN)/python -m pytest -m compose -rP tests/e2e/compose

check: .venv/stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest $(TESTS) --cov=app --cov-report=term:skip-covered

bench: .venv/stamp
	$(BIN)/python -m bench.run
	$(BIN)/python -m bench.queue

# The same, with other gateways beside ours, installed below .bench/ (some gigabytes).
bench-peers: .venv/stamp
	$(BIN)/python -m bench.peers
	$(BIN)/python -m bench.run peers
	$(BIN)/python -m bench.queue

# `make run PYTHON=python3.12` makes a .venv of another Python anew.
ifneq ($(origin PYTHON),file)
ifneq ($(shell $(PYTHON) -V 2>&1),$(shell $(BIN)/python -V 2>&1))
.PHONY: .venv/stamp
endif
endif

.venv/stamp: requirements.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit("Penstock needs Python 3.11 or newer; set PYTHON=") if sys.version_info < (3, 11) else 0'
	$(PYTHON) -m venv $$(test "$$($(PYTHON) -V)" = "$$($(BIN)/python -V 2>&1)" || echo --clear) .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt -r requirements.txt
	@touch $@

requirements:
	pip-compile --quiet --generate-hashes --strip-extras --allow-unsafe --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --output-file requirements.txt requirements.in
	pip-compile --quiet --generate-hashes --strip-extras --allow-unsafe --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --output-file requirements-dev.txt requirements-dev.in

clean:
	rm -rf .venv data .coverage* .pytest_cache .mypy_cache .ruff_cache
