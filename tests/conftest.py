"""What several test files share."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

import cpu_process  # noqa: F401 (before torch)
from checkpoints_t5 import checkpoint_folder, prepare_staging, seal, staging_folder
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


@pytest.fixture(scope="session")
def tiny_words(tmp_path_factory, tokenizer_dir) -> list[str]:
    """Flags of tiny_run's training, on a text of this session."""
    from tiny_run import words_of

    folder = tmp_path_factory.mktemp("tiny")
    text = folder / "text.txt"
    text.write_text("\n".join(make_sentences(400)) + "\n")
    return words_of(tokenizer_dir, text_file=text, tokens=folder / "tokens")


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory, tiny_words) -> Path:
    """The uninterrupted run of one rank, with all its checkpoints; to be copied, not changed."""
    import pre_train_t5

    folder = tmp_path_factory.mktemp("whole") / "out"
    pre_train_t5.main([*tiny_words, "--output_dir", str(folder)])
    return folder


CHECKPOINT_FILES = (
    *("model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json", "part/a.json"),
)


def make_checkpoint(output_dir: Path, step: int, *, run: str = "a", text: str = "") -> Path:
    """A sealed checkpoint of small files."""
    staging = staging_folder(output_dir, step)
    prepare_staging(staging, expected_bytes=0)
    for name in CHECKPOINT_FILES:
        (staging / name).parent.mkdir(exist_ok=True)
        (staging / name).write_text(f"{name} of step {step} {text}")
    final = checkpoint_folder(output_dir, step)
    seal(staging, final, facts={"step": step, "run": run, "world_size": 1})
    return final


def pytest_addoption(parser):
    parser.addoption(
        "--update_golden", action="store_true", help="write tests/golden/ anew (make golden)"
    )
