# `make demo` and `make test` are all a new user needs; each sets up its own environment in .venv.
PYTHON ?= python3
BIN := .venv/bin
SETUP := .venv/.installed

.PHONY: setup demo test test-slow bench lint clean

setup: $(SETUP)

# torch comes first: with it there, nothing that follows pulls another build of it.
$(SETUP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=...")'
	@echo "setting up .venv (a few minutes the first time)"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[dev,evaluation]'
	@touch $@

# Molecules and shapes from the embedded weights, on the CPU, without any download but the packages.
demo: $(SETUP)
	$(BIN)/molgen generate gdb7-xtb-sound --num-samples 64 --seed 0 --device cpu --output-dir runs/demo --overwrite
	$(BIN)/shapegen generate procedural --num-samples 16 --points 1024 --seed 0 --device cpu --output-dir runs/demo-shapes --overwrite

test: $(SETUP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 -m 'not slow'

test-slow: $(SETUP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 -m slow

# Throughput, share of the machine's matrix rate, memory, cost of rewards. Run it on an idle machine.
bench: $(SETUP)
	$(BIN)/python benchmarks/run.py
	$(BIN)/python benchmarks/bench_egnn.py
	$(BIN)/python benchmarks/bench_sampling.py
	$(BIN)/python benchmarks/rewards.py

lint: $(SETUP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

clean:
	rm -rf .venv runs
