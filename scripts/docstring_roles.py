"""Show the cross-references of docstrings as code in the API reference, which is Markdown."""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:class|func|meth|mod|attr|data|exc|obj):`~?(?:[^`<]*<)?([^`>]+)>?`")


class DocstringRoles(griffe.Extension):
    """Turn ``:class:`taskcore.App``` into a link to that name where the reference has it."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of one object before it is parsed."""
        if obj.docstring is not None:
            obj.docstring.value = ROLE.sub(r"`\1`", obj.docstring.value).replace("``", "`")
