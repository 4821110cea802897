"""For mkdocs: what pages link to outside ``docs/`` is named on the site instead of linked.

On disk these links lead to sources beside the pages; a site has the pages alone.
"""

import re
from typing import Any

_OUTWARD = re.compile(r"\[([^\]]+)\]\(\.\./[^)]*\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The page's text with links that leave the folder reduced to their words."""
    return _OUTWARD.sub(r"\1", markdown)
