"""Metrics of segmentation and detection, in numpy unless said otherwise.

dice: the competition's Dice, areas over thresholds in JAX, CLU collections.
rules: post-processing rules, scored from stored areas.
summary: all metrics of one table of images.
curves: ROC and precision-recall curves.
calibration: temperature scaling, reliability, operating points.
bootstrap: intervals that draw patients.
averages: division, weighted means, quartiles, intervals.
"""
