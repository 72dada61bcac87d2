"""The one place that makes pages: templates in, HTML or Markdown out."""

import functools

import jinja2


def render(template: str, **content) -> str:
  """The page; whatever is put into HTML is escaped."""
  return _environment().get_template(template).render(**content)


@functools.cache
def _environment() -> jinja2.Environment:
  return jinja2.Environment(
    loader=jinja2.PackageLoader('pnx_jax.pages'),
    autoescape=lambda name: not name.endswith('.md'),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
