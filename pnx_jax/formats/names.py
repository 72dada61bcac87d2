"""Names of files, which may hold any bytes, as text; and text as file names."""

import hashlib
import re

_LONGEST_STEM = 64


def printable(text: str) -> str:
  """Text in which whatever cannot be shown is written as \\x1b."""
  if text.isprintable():
    return text
  return ''.join(
    letter
    if letter.isprintable()
    else letter.encode('unicode_escape', 'surrogatepass').decode('ascii')
    for letter in text
  )


def safe_stem(text: str) -> str:
  """Text as part of a file name: letters, digits, `_`, `.` and `-` of its end.

  Different texts may give the same stem, and the stem may be empty.
  """
  stem = re.sub(r'[^\w.-]', '_', text, flags=re.ASCII)
  return stem[-_LONGEST_STEM:].lstrip('.')


def safe_name(text: str) -> str:
  """A file name, without ending, of its own for every text.

  Text that is safe already stays as it is.
  """
  stem = safe_stem(text).lstrip('-')
  if stem and stem == text:
    return text
  digest = hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()
  return f'{stem}_{digest[:12]}'
