"""Names of files, which may hold any bytes, as text."""


def printable(text: str) -> str:
  """Text with everything that is no character to be seen written as \\x1b."""
  if text.isprintable():
    return text
  return ''.join(
    letter
    if letter.isprintable()
    else letter.encode('unicode_escape', 'surrogatepass').decode('ascii')
    for letter in text
  )
