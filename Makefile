# make demo: synthetic radiographs -> TFRecords -> training -> evaluation.
# make test: style, types and the whole test suite.
# Both install into .venv first. PYTHON=python3.12 chooses a Python, whose
# environment is .venv-3.12.
ifdef PYTHON
VENV := .venv-$(shell $(PYTHON) -c \
  'import sys; print("%d.%d" % sys.version_info[:2])')
else
PYTHON := python3
VENV := .venv
endif
BIN := $(VENV)/bin
DEMO := runs/demo
# Huge pages make CPU steps faster; the cache saves recompilation.
export GLIBC_TUNABLES := glibc.malloc.hugetlb=1
export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/.cache/jax
export TF_CPP_MIN_LOG_LEVEL := 3

# Two workers: of a test, starting Python and compiling use one core each.
PYTEST := $(BIN)/python -m pytest --numprocesses=2 --dist=loadfile \
  --no-loadscope-reorder

# What another version of Python is most likely to break, in three minutes.
SHORT := $(addprefix tests/test_, configs.py dicom.py layering.py losses.py \
  packaging.py pipeline.py rle.py train.py)

.PHONY: demo study test test-short proofs beam manifest lint format clean

$(VENV)/installed: setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable '.[prep]'
	touch $@

$(VENV)/tests-installed: $(VENV)/installed tests/requirements-gcs.txt
	$(BIN)/pip install --quiet --editable '.[prep,test]'
	$(BIN)/pip install --quiet --require-hashes -r tests/requirements-gcs.txt
	touch $@

demo: $(VENV)/installed
	$(BIN)/python -m data_prep.phantom --output_dir=data/phantom \
	  --num_images=600 --num_test_images=12 --prevalence=0.5 --seed=0
	$(BIN)/python -m data_prep.build --output_dir=data/demo --overwrite \
	  --dicom_dir=data/phantom/dicom-images-train \
	  --rle_csv=data/phantom/train-rle.csv \
	  --test_dicom_dir=data/phantom/dicom-images-test \
	  --patient_map=data/phantom/nih_id.csv --image_size=128
	$(BIN)/python launch.py --config=configs/demo.py --workdir=$(DEMO)
	$(BIN)/python launch.py --config=configs/demo.py --workdir=$(DEMO) \
	  --mode=eval

# What finds real pneumothorax: trains the plan of benchmarks/study, resumable.
# STUDY='--fresh' trains all again, STUDY='--report' nothing.
study: $(VENV)/installed
	$(BIN)/pip install --quiet --editable '.[pretrained]'
	$(BIN)/python -m benchmarks.study --real_data=$(PNX_REAL_DATA) $(STUDY)

test: $(VENV)/tests-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(PYTEST)

test-short: $(VENV)/tests-installed
	$(PYTEST) $(SHORT)

# What takes minutes; PNX_REAL_DATA is the folder with the real radiographs.
proofs: $(VENV)/tests-installed
	XLA_FLAGS= $(BIN)/python -m pytest -s -m slow tests/test_real.py

# Beam wants an older protobuf than TensorFlow: an environment of its own.
beam:
	$(PYTHON) -m venv .cache/beam
	.cache/beam/bin/pip install --quiet --editable '.[prep,beam]' pytest
	.cache/beam/bin/python -m pytest tests/test_beam.py

# The Kubernetes manifest against its schema, in an environment of its own.
manifest:
	$(PYTHON) -m venv .cache/kubernetes
	.cache/kubernetes/bin/pip install --quiet kubernetes-validate
	.cache/kubernetes/bin/kubernetes-validate --strict docs/cluster/train.yaml

# Style, and the types of every public name.
lint: $(VENV)/tests-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest tests/test_types.py

format: $(VENV)/tests-installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf data/phantom data/demo $(DEMO) .cache
