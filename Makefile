# make demo   trains the digits example on 2 workers of this machine, and evaluates the model
# make test   lints, checks types and runs the tests, LANES=4 files side by side; with a KUBECONFIG those on the cluster as well
# make fuzz   feeds damaged input to all that reads some: FOR=600 seconds a test, SEED=1 to repeat
# make mutants OF=plan  changes one thing at a time, and shows which changes no unit test notices; SAMPLE=40 for some of them
# make lock   writes requirements/*.txt anew: versions and hashes of what the image and a release consist of; UPGRADE=1 for newer ones
# make dist   builds the sdist and the wheel, and lists what they and the image consist of (CycloneDX), in dist/ and sbom/
# All make a virtual environment in .venv first. They need Python 3.11 or newer, and nothing else.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
LANES ?= 4
FOR ?= 60
ifndef SEED
SEED := $(shell date +%s)
endif
RUN_NAME = demo-$(shell date +%H%M%S)

LOCKED = pip install -q --require-hashes --no-deps --only-binary :all: -r
LOCK = $(VENV)/tools/bin/uv pip compile -q --universal --python-version 3.11 --generate-hashes --only-binary :all: \
  --custom-compile-command 'make lock' $(if $(UPGRADE),--upgrade)
# There is no wheel of it: the image builds one, by source.txt and build.txt.
SOURCE = --no-binary tfrecord-lite --no-emit-package tfrecord-lite
SBOM = $(VENV)/tools/bin/cyclonedx-py

.PHONY: demo test fuzz mutants lint gateway lock dist image clean

demo: $(VENV)/train
	$(BIN)/tf-spawner run examples/digits/train.py -w 2 --name $(RUN_NAME)
	@$(BIN)/python examples/digits/evaluate.py runs/$(RUN_NAME)/files/worker-0/model.keras 2>/dev/null
	@echo "your own: $(BIN)/tf-spawner run train.py -w 2; logs and files are in runs/"

# Compiled once: where PYTHONDONTWRITEBYTECODE is set, each of the thousands of processes that tests start would do it.
test: lint gateway
	$(BIN)/python -m compileall -q tfspawner
	$(BIN)/python -m pytest -n $(LANES) --dist loadfile --no-loadscope-reorder

fuzz: $(VENV)/test
	$(BIN)/python -m pytest tests/fuzz --timeout=0 --fuzz-seconds=$(FOR) --seed=$(SEED) --hypothesis-seed=$(SEED)

mutants: $(VENV)/test
	$(BIN)/python tests/tools/mutate.py $(OF) $(if $(SAMPLE),--sample $(SAMPLE)) $(if $(SEED),--seed $(SEED))

lint: $(VENV)/test $(VENV)/tools/done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYTHONPATH=. $(VENV)/tools/bin/lint-imports --no-logo --no-cache
	$(BIN)/python tests/tools/sizes.py
	$(VENV)/tools/bin/vermin -q -t=3.9- --violations --no-tips tfspawner/replica
	$(VENV)/tools/bin/zizmor -q --offline --persona=pedantic .github

# The S3 server of the tests: minutes for the first time, so not while tests run. Without Go they are skipped.
gateway:
	@! command -v go > /dev/null || (cd tests/tools && go build -o bin/versitygw github.com/versity/versitygw/cmd/versitygw)

lock: $(VENV)/tools/done
	$(LOCK) requirements/tools.in -o requirements/tools.txt
	$(LOCK) $(SOURCE) setup.cfg requirements/image.in --extra data --extra train --extra gpu -o requirements/cpu.txt
	$(LOCK) $(SOURCE) setup.cfg requirements/image.in requirements/gpu.in --extra data --extra tensorboard --extra gpu \
	  -c requirements/cpu.txt -o requirements/gpu.txt
	$(LOCK) requirements/build.in -c requirements/cpu.txt -o requirements/build.txt
	$(LOCK) --no-binary tfrecord-lite --no-deps requirements/source.in -o requirements/source.txt
	$(LOCK) --no-deps requirements/tf-keras.in -o requirements/tf-keras.txt
	$(LOCK) setup.cfg -c requirements/cpu.txt -o requirements/wheel.txt

dist: $(VENV)/tools/done
	rm -rf dist sbom build && mkdir build
	$(VENV)/tools/bin/python -m build -n > build/log || { cat build/log >&2; exit 1; }
	$(PYTHON) -m venv build/wheel
	build/wheel/bin/$(LOCKED) requirements/wheel.txt
	build/wheel/bin/pip install -q --no-deps --no-index --find-links dist tf-spawner
	build/wheel/bin/pip uninstall -q -y setuptools pip
	mkdir sbom
	$(SBOM) environment build/wheel -o sbom/wheel.cdx.json
	cat requirements/cpu.txt requirements/source.txt requirements/tf-keras.txt | $(SBOM) requirements - -o sbom/image-cpu.cdx.json
	cat requirements/gpu.txt requirements/source.txt requirements/tf-keras.txt | $(SBOM) requirements - -o sbom/image-gpu.cdx.json

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

$(VENV)/tools/done: requirements/tools.txt
	$(PYTHON) -m venv $(VENV)/tools
	$(VENV)/tools/bin/$(LOCKED) requirements/tools.txt
	@touch $@

clean:
	rm -rf $(VENV) build dist sbom *.egg-info
