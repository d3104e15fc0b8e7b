# `make demo` and `make test` do all their own set-up on a machine with python3, make and git.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT := demo

.PHONY: demo test lint types contracts tests heavy clean

demo: $(VENV)/ready
	$(BIN)/optishear search experiments/quickstart.yaml --out $(OUT)/results
	$(BIN)/optishear front $(OUT)/results/quickstart
	$(BIN)/optishear plot $(OUT)/results/quickstart
	$(BIN)/optishear export $(OUT)/results/quickstart --pick knee --to $(OUT)/knee
	$(BIN)/optishear report $(OUT)/results/quickstart
	$(BIN)/optishear prune --model embedded --recipe $(OUT)/knee/recipe.json --to $(OUT)/pruned
	$(BIN)/optishear verify $(OUT)/pruned

test: lint types contracts tests

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/ready
	$(BIN)/basedpyright

contracts: $(VENV)/ready
	$(BIN)/lint-imports

# What a test's many processes import is compiled once, whatever else the environment asks for.
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_WAIT_POLICY=PASSIVE OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

tests: $(VENV)/ready
	$(PYTEST) -m "not heavy" --durations=15

# Whole searches, processes of their own, Ray, the compiler: minutes, and what `.ci/run` adds.
heavy: $(VENV)/ready
	$(PYTEST) -m heavy --durations=30

# torch first and pinned: pip then takes a CPU build wherever it can find one (README), and
# nothing installed afterwards brings another.
$(VENV)/ready: pyproject.toml ci/constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("python 3.11 or newer is needed" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r ci/constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c ci/constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) $(OUT) build dist *.egg-info
