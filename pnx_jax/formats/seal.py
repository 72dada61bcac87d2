"""A checksum inside a JSON object, so that an accident or edit is noticed.

It protects against damage and edits by hand, not against forgery.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pnx_jax.errors import UserError

FIELD = 'seal'


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
  """Returns an object with its checksum as one more field."""
  return {**content, FIELD: digest(content)}


def is_sealed(content: Mapping[str, Any], path: str, *, remedy: str) -> bool:
  """Returns whether an object has a seal; a seal it has must be right.

  Args:
    content: The object as it was read.
    path: Where it was read, for the message.
    remedy: What the user can do.

  Raises:
    UserError: The content was changed after it was sealed.
  """
  if FIELD not in content:
    return False
  if content[FIELD] != digest(content):
    raise UserError(f'{path} was changed after it was written: {remedy}')
  return True


def digest(content: Mapping[str, Any]) -> str:
  """Returns the SHA-256 of an object's fields but its seal."""
  fields = {name: content[name] for name in content if name != FIELD}
  text = json.dumps(fields, sort_keys=True, separators=(',', ':'))
  return hashlib.sha256(text.encode()).hexdigest()
