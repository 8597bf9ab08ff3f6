"""Text: values, types and errors as people write them."""

from __future__ import annotations

import re
import types
from contextlib import suppress
from typing import Annotated, Any, get_args, get_origin

__all__ = ["describe", "first_line", "kind_of", "short_repr", "shorten"]

MOST_CHARACTERS = 60  #: of a value


def first_line(error: object) -> str:
    """Return the first line of an error's text, beginning in lower case."""
    text = type(error).__name__
    with suppress(Exception):  # an error of the user's may not even have a text
        text = str(error).splitlines()[0].replace("`", "")
    return text[:1].lower() + text[1:]


def describe(annotation: Any) -> str:
    """Write a type as a person would: ``list[Order] | None``."""
    if get_origin(annotation) is Annotated:
        return describe(get_args(annotation)[0])
    if annotation in (Any, types.NoneType):
        return "plain JSON data" if annotation is Any else "None"
    is_class = isinstance(annotation, type) and not get_args(annotation)
    return shorten(annotation.__qualname__ if is_class else str(annotation))


def shorten(text: str) -> str:
    """Remove the names of modules from the text of a type, except in the quotes of a Literal."""
    return re.sub(r"(?<!['\"\w.>])[\w.<>]+\.(?=\w)", "", text)


def kind_of(value: Any) -> str:
    """Write the kind of a value and nothing else of it: ``str``."""
    return "None" if value is None else type(value).__name__


def short_repr(value: Any, *, bare: bool = False) -> str:
    """Write a value with its kind, such as ``str 'two'``, in about 60 characters; never raises.

    :param bare: without the kind.
    """
    kind = type(value).__name__
    try:
        text = " ".join(repr(value).split())
    except Exception:  # noqa: BLE001 - it is the user's code
        text = f"<{kind} whose repr() fails>"
    if len(text) > MOST_CHARACTERS:
        text = text[:MOST_CHARACTERS] + "…"
    return text if bare or value is None or text.startswith((kind, "<", "datetime.")) else f"{kind} {text}"
