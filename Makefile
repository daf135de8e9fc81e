# Needs make and Python 3.11 or newer, named by PYTHON.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# More than there are cores: most of the time the tests wait for other processes.
WORKERS ?= 6

.PHONY: demo test check bench plot soak reference clean

demo: $(VENV)/ready
	$(BIN)/bridge demo

# Compiled first: the tests start thousands of short processes, and where Python may not write its bytecode each of them
# would compile all of bridge.
test: check
	$(BIN)/python -m compileall -q bridge
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --durations=15

check: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --platform darwin bridge
	for file in examples/*.py; do $(BIN)/mypy $$file || exit 1; done

bench: $(VENV)/ready
	$(BIN)/python -m benchmarks

plot: $(VENV)/ready
	$(BIN)/python -m benchmarks plot

soak: $(VENV)/ready
	BRIDGE_SOAK=1 $(BIN)/python -m pytest -n $(WORKERS) --timeout 3600 tests/scenarios/test_model.py tests/scenarios/test_model_files.py tests/scenarios/test_crash.py tests/scenarios/test_crash_many.py tests/parity/test_parity_live.py \
		tests/kinds/test_spool_crash.py tests/kinds/test_context.py tests/kinds/test_state.py tests/kinds/test_artifacts.py tests/scenarios/test_kinds_faults.py \
		tests/scenarios/test_raised.py tests/scenarios/test_model_looks.py tests/files/test_between_calls.py tests/parity/test_parity_rotating.py tests/admin/test_repair.py tests/admin/test_quarantine.py tests/cutover/test_state_owner.py tests/admin/test_retention_model.py tests/admin/test_retire.py tests/admin/test_move_server.py tests/continuity/test_groups.py
	BRIDGE_SOAK=1 BRIDGE_FAULTS=200 $(BIN)/python -m pytest -n $(WORKERS) --timeout 3600 -s tests/scenarios/test_cutover_faults.py
	BRIDGE_SOAK=1 $(BIN)/python -m pytest -n $(WORKERS) --timeout 7200 -s tests/scenarios/test_storms.py tests/scenarios/test_hosts_storm.py
	BRIDGE_SOAK=1 $(BIN)/python -m pytest -s tests/scenarios/test_nemesis.py
	BRIDGE_SOAK=1 BRIDGE_SOAK_PLOT=benchmarks $(BIN)/python -m pytest -s tests/scenarios/test_soak.py

reference: $(VENV)/ready
	$(BIN)/python -m tests.reference

$(VENV)/ready: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
