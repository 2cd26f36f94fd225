# `make book` builds the book and serves it, `make test` runs everything that must hold. Both make their environment first.
# SERVE=0 builds only · BOOK_BUDGET=smoke|cpu|cuda|full sets how long notebooks train · PYTHON=… picks an interpreter.

PYTHON ?= python3
VENV ?= .venv
BOOK := $(VENV)/bin/python -m book

.PHONY: book test serve bench clean

book: $(VENV)/ready
	$(BOOK) build
ifneq ($(SERVE),0)
	$(BOOK) serve
endif

test: $(VENV)/ready
	$(BOOK) test

serve: $(VENV)/ready
	$(BOOK) serve

# The packages that ours are measured against come without what they depend on: that is there already.
bench: $(VENV)/ready
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement benchmarks/requirements.txt
	$(BOOK) bench

clean:
	rm -rf _build

# Made again when the pinned set changes. `--no-deps`: what is installed is what requirements.txt says, and nothing else.
$(VENV)/ready: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "The book needs Python 3.11 or newer; say which: make PYTHON=python3.12 …")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --requirement requirements.txt
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@
