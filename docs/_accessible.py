"""What the theme leaves out for those who use a keyboard or a screen reader, and figures to enlarge; axe-core
checks the result (tests/test_docs.py).
"""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

REPLACEMENTS = (
    ('<p class="caption" role="heading">', '<p class="caption" role="heading" aria-level="2">'),
    ('<aside class="sidebar-drawer">', '<aside class="sidebar-drawer" aria-label="Site">'),
    ('<th class="head"><p></p></th>', "<td></td>"),
    # What may be wider than the page is scrolled with the arrow keys once it has the focus.
    ("<pre>", '<pre tabindex="0">'),
    ('<div class="table-wrapper ', '<div tabindex="0" class="table-wrapper '),
)
CONTENTS = re.compile(r'<aside class="(toc-drawer[^"]*)">')
FORMULA_HEAD = re.compile(r'(<th class="head[^"]*"><p>)<(math.*?</math>)(?=</p></th>)', re.DOTALL)
PARAMETERS = re.compile(r"<dl>\n((?:<dd>.*?</dd>\n?)+)</dl>", re.DOTALL)
FIGURE = re.compile(r'(?<!">)(<img [^>]*class="[^"]*figure[^"]*"[^>]*src="([^"]*)"[^>]*>)')


def improved(page: str) -> str:
    """A page's HTML with names, levels and keyboard access where the theme has none."""
    for before, after in REPLACEMENTS:
        page = page.replace(before, after)
    if "<h1" not in page:
        heading = '<h1 class="unseen">Search</h1>'
        page = page.replace('<div id="search-results">', f'{heading}\n<div id="search-results">')
    page = CONTENTS.sub(r'<aside class="\1" aria-label="On this page">', page)
    page = FORMULA_HEAD.sub(spoken, page)
    page = PARAMETERS.sub(parameters, page)
    return FIGURE.sub(r'<a class="enlarge" href="\2">\1</a>', page)


def spoken(head: re.Match[str]) -> str:
    """A table's heading that is only a formula, with text for a screen reader."""
    text = html.escape(html.unescape(re.sub(r"<[^>]+>", "", f"<{head[2]}")))
    return (
        f'{head[1]}<span class="unseen">{text}</span><math aria-hidden="true"{head[2].removeprefix("math")}'
    )


def parameters(found: re.Match[str]) -> str:
    """The parameters of a long signature, which Sphinx writes as descriptions of nothing."""
    lines = found[1].replace("<dd>", "<div>").replace("</dd>", "</div>")
    return f'<div class="parameters">\n{lines}</div>'


def improve(app: Any, exception: Exception | None) -> None:
    """Rewrite every page that Sphinx wrote."""
    if exception is None:
        for path in Path(app.outdir).rglob("*.html"):
            before = path.read_text(encoding="utf-8")
            after = improved(before)
            if after != before:
                path.write_text(after, encoding="utf-8")
