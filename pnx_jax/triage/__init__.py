"""Simulates what reading suspicious films first would do to waiting times.

queue: a queue of films and its readers.
cohort: the films of an evaluation, resampled by patient.
simulation: waiting times and alert rates of both together.
"""
