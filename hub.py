"""The Hugging Face Hub, asked once whether it is there.

The libraries retry every file for half a minute each where there is no network, and print every
attempt. Here one request decides; without an answer all of them work from their local caches.
"""

from __future__ import annotations

import functools

SECONDS_TO_ANSWER = 5


@functools.cache
def use_hub() -> bool:
    """True if the Hub answers; otherwise the Hugging Face libraries are set to offline mode."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=SECONDS_TO_ANSWER)
        return True
    except Exception:  # whatever keeps it from answering: name, route, proxy, certificate, time
        constants.HF_HUB_OFFLINE = True
        import datasets

        datasets.config.HF_HUB_OFFLINE = datasets.config.HF_DATASETS_OFFLINE = True
        return False
