"""Sphinx: the pages of this folder, and the reference from the docstrings.

sphinx-build --fail-on-warning docs docs/_build
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from ignite_trainer import __version__  # noqa: E402

project = "ignite_trainer"
copyright = "The ignite_trainer maintainers, BSD-3-Clause"
version = release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]

html_theme = "alabaster"
html_theme_options = {"description": "The training loop that people write by hand, as two Ignite engines"}

myst_heading_anchors = 3  # links to headings, as forges have them
default_role = "py:obj"  # `name` in a docstring
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_use_rtype = False
