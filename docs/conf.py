"""Sphinx configuration: pages in Markdown, the reference from docstrings, a page per method."""

import sys
from pathlib import Path

import captum_unioncam

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
# Sphinx only reads what lies below this folder, and links of the notebooks then begin here.
(HERE / "tutorials").mkdir(exist_ok=True)
for notebook in (HERE.parent / "tutorials").glob("*.ipynb"):
    text = notebook.read_text(encoding="utf-8").replace("](../docs/", "](../")
    (HERE / "tutorials" / notebook.name).write_text(text, encoding="utf-8")

project = "captum-unioncam"
author = "captum-unioncam developers"
version = release = captum_unioncam.__version__
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "docstrings",
    "formulas",
    "method_pages",
    "metric_tables",
]
exclude_patterns = ["_build", "methods/_*"]
html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["wide.css"]
html_title = "captum-unioncam"
html_show_copyright = False
html_math_renderer = "mathml"
default_role = "py:obj"
toc_object_entries = False
python_maximum_signature_line_length = 100

# The notebooks lie in the repository as they ran.
nb_execution_mode = "off"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

autoclass_content = "both"
autodoc_member_order = "bysource"
autodoc_typehints = "none"
napoleon_use_ivar = True
