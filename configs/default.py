"""The default of every field; pnx_jax/config.py describes them.

The recipes beside this file import `get_config` and change what differs.
"""

from pnx_jax.config import get_config, variant

__all__ = ['get_config', 'variant']
