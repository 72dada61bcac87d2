"""Reads the files that a command wrote, for tests."""

import csv


def csv_rows(path):
  with path.open(newline='', encoding='utf-8') as file:
    return list(csv.DictReader(file))


def folder_contents(folder):
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in folder.rglob('*')
    if path.is_file()
  }
