# make demo   the whole pipeline on the committed data -> results/report.html
# make test   the tests
# Both set everything up in .venv first.
.PHONY: demo test lint dry-run install clean
.DELETE_ON_ERROR:

PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3.13 python3,$(shell command -v $(name))))
VENV := .venv
BIN := $(VENV)/bin
CORES ?= 2

demo: install
	$(BIN)/snakemake --cores $(CORES)
	@test results/report.html -nt results/summary.html || $(MAKE) --no-print-directory report
	@echo "the report: results/report.html"

report: install
	$(BIN)/snakemake --cores 1 --report results/report.html --report-stylesheet workflows/report/report.css

test: install
	$(BIN)/pytest

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile workflows
	$(BIN)/snakemake --lint
	$(BIN)/lint-imports

dry-run: install
	$(BIN)/snakemake --cores $(CORES) --dry-run

install: $(VENV)/installed

$(VENV)/installed: requirements.lock pyproject.toml
	@test -n "$(PYTHON)" && $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo "ssm_seq needs Python 3.11 or newer; set PYTHON=/path/to/python3.11" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "$$(grep -E '^uv==' requirements.lock)"
	$(BIN)/uv pip install --quiet --python $(BIN)/python --requirement requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $@

clean:
	rm -rf $(VENV) results
