"""Sphinx configuration: pages in Markdown, the reference from docstrings, a page per method."""

import sys
from pathlib import Path

import captum_unioncam

sys.path.insert(0, str(Path(__file__).parent))

project = "captum-unioncam"
author = "captum-unioncam developers"
version = release = captum_unioncam.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "docstrings",
    "method_pages",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["wide.css"]
html_title = "captum-unioncam"
html_show_copyright = False
default_role = "py:obj"
toc_object_entries = False
python_maximum_signature_line_length = 100

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

autoclass_content = "both"
autodoc_member_order = "bysource"
autodoc_typehints = "none"
napoleon_use_ivar = True
