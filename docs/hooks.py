"""Hooks of MkDocs: what GitHub shows by itself, and the built pages need help for.

Equations become MathML, so that no reader fetches a script, and links to files outside `docs/` lead
to the repository.
"""

import re

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig

CODE = r"(?P<code>```.*?```|`[^`\n]+`)"
BLOCK = r"\$\$(?P<block>.+?)\$\$"
INLINE = r"(?<![\\$\w])\$(?P<inline>[^$\n]+?(?:\n[^$\n]+?)?)\$(?!\d)"
MATH = re.compile(f"{CODE}|{BLOCK}|{INLINE}", re.DOTALL)


def on_page_markdown(markdown: str, config: MkDocsConfig, **_: object) -> str:
    """The page with its equations as MathML and its links mended; code stays as it is."""
    outside = f"]({config.repo_url.rstrip('/')}/blob/main/"
    return MATH.sub(_mathml, markdown.replace("](../", outside))


def _mathml(found: re.Match[str]) -> str:
    if found["code"]:
        return found[0]
    if found["block"]:
        return f"\n\n<div>{convert(found['block'].strip(), display='block')}</div>\n\n"
    return convert(found["inline"].replace("\n", " "))
