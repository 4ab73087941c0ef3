"""What a terminal shows besides text: colours, and bars that lines are written above.

Anywhere else there are only lines of text.
"""

from __future__ import annotations

import os
import sys
from typing import TextIO

from tqdm import tqdm

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


def say(text: str) -> None:
    """Prints lines, above the bars where there are some."""
    tqdm.write(text)
    sys.stdout.flush()


def clear_bars() -> None:
    """Makes room for what somebody else is about to print; the bars come back by themselves."""
    for bar in list(getattr(tqdm, "_instances", ())):
        bar.clear()
