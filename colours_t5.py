"""Colours on a terminal, and nothing but text anywhere else."""

from __future__ import annotations

import os
import sys
from typing import TextIO

# Select Graphic Rendition of ECMA-48.
CODES = {"bold": 1, "dim": 2, "red": 31, "green": 32, "blue": 34}


def is_coloured(stream: TextIO) -> bool:
    """Whether colours are seen there: a terminal that has some, and no NO_COLOR (no-color.org)."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return hasattr(stream, "isatty") and stream.isatty()


def paint(text: str, *styles: str) -> str:
    """The text for standard output, in these styles of CODES where they are seen."""
    if not styles or not text or not is_coloured(sys.stdout):
        return text
    codes = ";".join(str(CODES[style]) for style in styles)
    return f"\x1b[{codes}m{text}\x1b[0m"
