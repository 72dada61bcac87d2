"""Pages from templates: HTML or Markdown."""

import functools
from collections.abc import Iterator
from typing import Any

import jinja2


def render(template: str, **content: Any) -> str:
  """Renders a page; what is inserted into HTML is escaped."""
  return _environment().get_template(template).render(**content)


def stream(template: str, **content: Any) -> Iterator[str]:
  """Renders a page in pieces; iterators in the content are read lazily."""
  return _environment().get_template(template).generate(**content)


@functools.cache
def _environment() -> jinja2.Environment:
  return jinja2.Environment(
    loader=jinja2.PackageLoader('pnx_jax.pages'),
    autoescape=lambda name: not name.endswith('.md'),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
