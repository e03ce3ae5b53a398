# Two commands: `make study` shows what leapverify does, `make test` checks that it does it.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
OUT    ?= runs/tiny

.PHONY: study nowcast test slow doctest check golden soak lint format bench wheel clean

study: $(VENV)/.core
	$(BIN)/leapverify study --out $(OUT)

# What the package ships as `introspection` and `wnn`, from three groups of runs that share neither seeds nor text
# (docs/nowcast.md). A few minutes.
HISTORY := $(BIN)/leapverify study tiny --device cpu snapshots.weights=all snapshots.optimizer=last sweep.regimes=[] \
	sweep.predictors=[hold] sweep.curve_every_steps=null cascade.kinds=[]
LEARNT := src/leapverify/predict/learnt

nowcast: $(VENV)/.core
	$(HISTORY) --seeds 100-103 'data.source=stdlib-tests#1/2' --out runs/nowcast-train
	$(HISTORY) --seeds 110-111 'data.source=stdlib-tests#2/2' --out runs/nowcast-heldout
	$(HISTORY) --seeds 42-45 data.source=stdlib --out runs/nowcast-test
	for name in introspection wnn; do $(BIN)/leapverify nowcast train $$name --train runs/nowcast-train \
		--heldout runs/nowcast-heldout --test runs/nowcast-test --out $(LEARNT)/$$name.safetensors || exit 1; done

# What to run while working: every room, in under five minutes on two cores.
test: $(VENV)/.dev
	$(BIN)/python -m pytest -n auto --dist worksteal -m 'not slow'

# Whole studies over and over, kills, torchrun, Ray, browsers, the wheel, examples that train.
slow: $(VENV)/.dev
	$(BIN)/python -m pytest -n auto --dist worksteal -m slow

# The examples in docstrings.
doctest: $(VENV)/.dev
	$(BIN)/python -m pytest --doctest-modules --doctest-ignore-import-errors src/leapverify

check: test slow doctest lint

# Writes the golden records anew: only where a number is meant to change.
golden: $(VENV)/.dev
	$(BIN)/python -m pytest tests/golden --write-golden

# Faults, hostile input and chance, over and over; writes docs/results/reliability/*.json and docs/reliability.md.
soak: $(VENV)/.dev
	HYPOTHESIS_PROFILE=soak $(BIN)/python -m pytest tests/soak --durations=0
	$(BIN)/python benchmarks/reliability.py --write docs/reliability.md

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/interrogate -q src

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev
	for file in benchmarks/[a-z]*.py; do $(BIN)/python $$file || exit 1; done

wheel: $(VENV)/.dev
	$(BIN)/python -m build --wheel

# The constraints hold the versions that were tested; the package itself asks for less.
$(VENV)/.core: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.dev: $(VENV)/.core
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) dist build
