"""The report, one self-contained page."""


def render(**_) -> str:
  return ''
