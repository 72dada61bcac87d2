"""The one place that makes pages: templates in, HTML or Markdown out."""

import functools
from collections.abc import Iterator

import jinja2


def render(template: str, **content) -> str:
  """The page; whatever is put into HTML is escaped."""
  return _environment().get_template(template).render(**content)


def stream(template: str, **content) -> Iterator[str]:
  """The page in pieces; iterators among the content are read meanwhile."""
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
