"""The documentation's site: `sphinx-build -W docs site` writes it, `tox -e docs` tests it as well.

_pages.py writes the pages of the models, the reference and the chapters. Nothing comes from another host: the
theme has its own style and scripts, formulas are MathML, figures are files.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "torch")
sys.path.insert(0, str(Path(__file__).parent))

import _accessible
import _docstrings
import _math
import _pages

import zoo

project, version, release = "zoo", zoo.__version__, zoo.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode", "sphinx_copybutton"]
smartquotes = False
highlight_language = "text"
exclude_patterns = ["**/_*.md", "_*"]
suppress_warnings = ["misc.highlighting_failure"]  # JSON with dots in it

html_theme = "furo"
html_title = "zoo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_search_scorer = str(Path(__file__).parent / "_scorer.js")
html_copy_source = False
html_show_copyright = False
pygments_style, pygments_dark_style = "default", "github-dark"

default_role = "py:obj"  # `name` in a docstring links to what is called so
autodoc_inherit_docstrings = False  # Keras writes its own
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 88
toc_object_entries_show_parents = "hide"
myst_heading_anchors = 3
myst_enable_extensions = ["dollarmath", "colon_fence"]
html_math_renderer = "mathml"
copybutton_exclude = ".linenos, .gp, .go"


def one_way(app: Any, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Sphinx links a page of source back to places that this documentation does not have."""
    del app, template, doctree
    if page.startswith("_modules/") and "body" in context:
        context["body"] = re.sub(r'<a class="viewcode-back".*?</a>', "", context["body"])


def own_language(app: Any, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """The Chinese pages say in which language they are."""
    del app, template, doctree
    if page.startswith(("chapters/zh/", "zh/")):
        context["language"] = "zh-CN"


def setup(app: Any) -> None:
    """Write the generated pages before Sphinx looks for pages, and read docstrings as Markdown."""
    app.connect("config-inited", lambda *_: _pages.write(Path(__file__).parent))
    app.connect("autodoc-process-docstring", _docstrings.convert)
    app.connect("autodoc-process-signature", _docstrings.call)
    app.connect("html-page-context", one_way)
    app.connect("html-page-context", own_language)
    app.connect("build-finished", _accessible.improve)
    app.add_html_math_renderer("mathml", (_math.inline, None), (_math.block, None))
