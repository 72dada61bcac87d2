"""Pneumothorax detection and segmentation in chest radiographs, in JAX."""
