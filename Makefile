# make demo   trains the digits example on 2 workers of this machine, and evaluates the model
# make test   lints, checks types and runs the tests; with a KUBECONFIG those on the cluster as well
# make fuzz   feeds damaged input to all that reads some: FOR=600 seconds a test, SEED=1 to repeat
# All make a virtual environment in .venv first. They need Python 3.11 or newer, and nothing else.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
FOR ?= 60
ifndef SEED
SEED := $(shell date +%s)
endif
RUN_NAME = demo-$(shell date +%H%M%S)

.PHONY: demo test fuzz lint image clean

demo: $(VENV)/train
	$(BIN)/tf-spawner run examples/digits/train.py -w 2 --name $(RUN_NAME)
	@$(BIN)/python examples/digits/evaluate.py runs/$(RUN_NAME)/files/worker-0/model.keras 2>/dev/null
	@echo "your own: $(BIN)/tf-spawner run train.py -w 2; logs and files are in runs/"

test: lint
	$(BIN)/python -m pytest

fuzz: $(VENV)/test
	$(BIN)/python -m pytest tests/fuzz --timeout=0 --fuzz-seconds=$(FOR) --seed=$(SEED)

lint: $(VENV)/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

image:
	docker build -t tf-spawner .

$(VENV)/train: setup.cfg
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "tf-spawner needs Python 3.11 or newer: make PYTHON=python3.12 …")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -e '.[train]'
	$(BIN)/pip install -q --no-deps 'tf-keras==2.21.*'  # it depends on a second TensorFlow
	@touch $@

$(VENV)/test: $(VENV)/train examples/particle_classifier/requirements.txt examples/particle_classifier/requirements-demo.txt
	$(BIN)/pip install -q -e '.[train,data,eos,gpu,test,dev]' -r examples/particle_classifier/requirements.txt
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info
