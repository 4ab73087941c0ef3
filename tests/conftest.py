"""What several test files share."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

import cpu_threads  # noqa: F401 (before torch)
from model_t5 import load_tokenizer
from train_tokenizer_t5 import train_tokenizer


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the repository, or the one that T5_SHARED_DATA names."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("T5_SHARED_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} does not exist; set T5_SHARED_DATA to its place")
    return folder


WORDS = (
    "the a cat dog bird sees likes chases red small old house garden tree and or with under".split()
)


def make_sentences(num: int, *, seed: int = 0) -> list[str]:
    """Sentences of a small made-up language, the same for the same seed."""
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(5, 12))) + "." for _ in range(num)]


@pytest.fixture(scope="session")
def tokenizer_dir(tmp_path_factory) -> Path:
    """A T5 tokenizer of 116 pieces and 100 sentinels."""
    folder = tmp_path_factory.mktemp("tokenizer") / "tiny"
    train_tokenizer(make_sentences(500), output_dir=folder, vocab_size=116, num_threads=1)
    return folder


@pytest.fixture
def tokenizer(tokenizer_dir):
    """A fresh copy, so that a test may add tokens."""
    return load_tokenizer(str(tokenizer_dir))


def pytest_addoption(parser):
    parser.addoption(
        "--update_golden", action="store_true", help="write tests/golden/ anew (make golden)"
    )
