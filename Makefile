# make demo: synthetic radiographs -> TFRecords -> training -> evaluation.
# make test: the whole test suite. Both install into .venv first.
PYTHON ?= python3
BIN := .venv/bin
DEMO := runs/demo
# Huge pages make CPU steps 15-20 % faster; the cache spares recompilation.
export GLIBC_TUNABLES := glibc.malloc.hugetlb=1
export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/.cache/jax
export TF_CPP_MIN_LOG_LEVEL := 3

.PHONY: demo test proofs beam lint clean

.venv/installed: setup.py
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable '.[prep,test]'
	touch $@

demo: .venv/installed
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

test: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/python -m pytest

# What takes minutes; PNX_REAL_DATA is the folder with the real radiographs.
proofs: .venv/installed
	XLA_FLAGS= $(BIN)/python -m pytest -s -m slow tests/test_real.py

# Beam wants an older protobuf than TensorFlow: an environment of its own.
beam:
	$(PYTHON) -m venv .cache/beam
	.cache/beam/bin/pip install --quiet --editable '.[prep,beam]' pytest
	.cache/beam/bin/python -m pytest tests/test_beam.py

lint: .venv/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf data/phantom data/demo $(DEMO) .cache
