"""Folders and objects in buckets, as local files."""
