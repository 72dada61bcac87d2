"""Gradients that are written by hand."""

import inspect
from collections.abc import Callable
from typing import ParamSpec

import jax

_Arguments = ParamSpec('_Arguments')


def with_gradient(
  backward: Callable[..., tuple[jax.Array, jax.Array]],
) -> Callable[
  [Callable[_Arguments, jax.Array]], Callable[_Arguments, jax.Array]
]:
  """A decorator of functions of two arrays; further arguments are static.

  Args:
    backward: Takes the arguments of the function and the gradient of its
      result; returns the gradients of the two arrays.
  """

  def decorate(
    function: Callable[_Arguments, jax.Array],
  ) -> Callable[_Arguments, jax.Array]:
    count = len(inspect.signature(function).parameters)
    decorated = jax.custom_vjp(function, nondiff_argnums=range(2, count))
    decorated.defvjp(
      lambda *arguments: (function(*arguments), arguments[:2]),
      # Static arguments, the arrays, the gradient.
      lambda *given: backward(*given[-2], *given[:-2], given[-1]),
    )
    return decorated

  return decorate
