"""Proves that a stream gives the same examples with the same masks for any number of workers, ranks
and restarts, over several passes; that a pass over it is the corpus, token for token; that held-out
documents are never trained on; and that a stream that dies says so or reads on."""

import gzip
import json
import pickle
import shutil

import numpy as np
import pytest
from accelerate.data_loader import BatchSamplerShard
from conftest import make_sentences
from tiny_run import history, weights
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

import corpora_t5
import pre_train_t5
import readers
import streams_t5
import training_windows_t5
from arguments_t5 import PRE_TRAINING
from corpora_t5 import Position, find_sources, read_documents
from corruption_t5 import span_corruption
from data_collator_t5 import PreTrainingCollator
from errors import UserError
from flags import parse_flags
from model_t5 import sentinel_ids
from streams_t5 import Bookmarks, Cursor, HeldOut, Mark
from token_files_t5 import Encoder, encode_documents
from trainer_t5 import EpochSampler
from training_windows_t5 import load_windows

NUM_DOCUMENTS = 150
BLOCK = 32


@pytest.fixture(autouse=True)
def small_steps(monkeypatch):
    """Blocks and batches so small that a test crosses many of their borders."""
    monkeypatch.setattr(training_windows_t5, "BLOCK_WINDOWS", BLOCK)
    monkeypatch.setattr(corpora_t5, "DOCUMENTS_PER_BATCH", 7)
    monkeypatch.setattr(corpora_t5, "RETRY_SECONDS", (0, 0))


@pytest.fixture
def texts() -> list[str]:
    sentences = make_sentences(NUM_DOCUMENTS)
    return [
        f"{sentence} {number}" if number % 9 else "" for number, sentence in enumerate(sentences)
    ]


@pytest.fixture
def file(tmp_path, texts):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def load(tmp_path, files, tokenizer, **settings):
    settings = {
        "dataset_paths": None,
        "validation_percentage": 0.0,
        "streaming": True,
        "window_tokens": 16,
        **settings,
    }
    return load_windows(
        files=None if files is None else str(files),
        validation_files=None,
        dataset_names=None,
        text_column_name="text",
        tokenizer=tokenizer,
        cache_dir=tmp_path / "tokens",
        **settings,
    )


def make_collator(tokenizer) -> PreTrainingCollator:
    objective = span_corruption(
        input_length_tokens=15, noise_density=0.15, mean_noise_span_length=3, random_roll=False
    )
    return PreTrainingCollator(
        objective=objective,
        sentinels=sentinel_ids(tokenizer),
        pad_id=0,
        eos_id=1,
        start_id=0,
        seed=3,
    )


def first_pass(dataset) -> list[tuple[np.ndarray, int, int]]:
    """(tokens, pass, number) of windows in the order of the text until the second pass begins."""
    cursor, windows = Cursor(dataset.streams[0], Mark()), []
    while True:
        (window,) = cursor.take(1)
        if window.pass_number:
            return windows
        windows.append(window)


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("window_tokens", [5, 16, 10_000, None])
def test_a_pass_is_the_corpus_token_for_token(
    tmp_path, file, texts, tokenizer, apart, window_tokens
):
    if window_tokens is None:  # one token would be left over
        num_tokens = len(encode_documents(texts, tokenizer=tokenizer))
        window_tokens = next(width for width in range(5, 99) if num_tokens % width == 1)
    settings = {"window_tokens": window_tokens, "one_document_per_example": apart}
    streamed = load(tmp_path, file, tokenizer, **settings).training
    mapped = load(tmp_path, file, tokenizer, streaming=False, **settings).training
    expected = mapped.__getitems__(range(len(mapped)))
    windows = first_pass(streamed)
    assert [w.tokens.tolist() for w in windows] == [w.tolist() for w in expected.windows]
    assert [w.number for w in windows] == expected.examples.tolist()
    assert window_tokens > 5 or len(windows) > 100


def test_one_token_behind_a_full_window_is_not_lost(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(corpora_t5, "DOCUMENTS_PER_BATCH", 1)
    (sentence,) = make_sentences(1)
    ids = encode_documents([sentence, "cat"], tokenizer=tokenizer).tolist()
    (tmp_path / "a.txt").write_text(f"{sentence}\ncat\n")
    dataset = load(tmp_path, tmp_path / "a.txt", tokenizer, window_tokens=len(ids) - 1).training
    assert [w.tokens.tolist() for w in first_pass(dataset)] == [ids[:-2], ids[-2:]]


@pytest.mark.parametrize("apart", [False, True])
def test_any_window_can_be_gone_on_from(tmp_path, file, tokenizer, apart):
    settings = {"one_document_per_example": apart, "window_tokens": 3}  # several in a document
    stream = load(tmp_path, file, tokenizer, **settings).training.streams[0]
    whole, marks = Cursor(stream, Mark()), []
    windows = []
    for _ in range(1600):
        marks.append(whole.mark())
        windows += whole.take(1)
    assert windows[-1].pass_number >= 2
    for number in range(0, 1590, 37):
        again = Cursor(stream, marks[number])
        found = again.take(1)
        found += Cursor(stream, again.mark()).take(4)  # a mark set by who came from a mark
        for window, other in zip(found, windows[number:], strict=False):
            assert window[1:] == other[1:] and window.tokens.tolist() == other.tokens.tolist()


def batches_of(dataset, sampler, *, collator, num_workers, num_ranks, start=0, batch_size=4):
    """What the ranks see, put back in the order of a single process."""
    per_rank = []
    for rank in range(num_ranks):
        shard = BatchSamplerShard(
            BatchSampler(sampler, batch_size, drop_last=False), num_ranks, process_index=rank
        )
        loader = DataLoader(
            pickle.loads(pickle.dumps(dataset)),
            batch_sampler=list(shard)[start // num_ranks :],
            collate_fn=collator,
            num_workers=num_workers,
        )
        per_rank.append(list(loader))
    return [batch for step in zip(*per_rank, strict=True) for batch in step]


def assert_same_batches(batches, expected):
    assert len(batches) == len(expected)
    for batch, other in zip(batches, expected, strict=True):
        assert batch.keys() == other.keys()
        for name in batch:
            np.testing.assert_array_equal(batch[name], other[name], err_msg=name)


@pytest.mark.parametrize("streaming", [True, False])
def test_workers_ranks_and_restarts_see_the_same(tmp_path, file, tokenizer, streaming):
    dataset = load(tmp_path, file, tokenizer, streaming=streaming).training
    collator = make_collator(tokenizer)
    sampler = SequentialSampler(range(400)) if streaming else EpochSampler(len(dataset), seed=1)
    if not streaming:
        sampler.set_epoch(2)
    settings = {"collator": collator}
    expected = batches_of(dataset, sampler, num_workers=0, num_ranks=1, **settings)
    passes = {int(e) for e in dataset.__getitems__(list(sampler)).epochs}
    assert len(passes) >= 3 if streaming else passes == {2}
    if len(expected) % 2:
        expected = expected[:-1]
        sampler = list(sampler)[: 4 * len(expected)]
    for num_workers, num_ranks in ((1, 1), (2, 1), (0, 2), (2, 2)):
        layout = {"num_workers": num_workers, "num_ranks": num_ranks}
        assert_same_batches(batches_of(dataset, sampler, **layout, **settings), expected)
    for start in (6, 26):
        layout = {"num_workers": 2, "num_ranks": 2, "start": start}
        assert_same_batches(batches_of(dataset, sampler, **layout, **settings), expected[start:])


def test_a_forked_worker_opens_its_own_files(tmp_path, file, tokenizer, monkeypatch):
    monkeypatch.setattr(readers, "CHUNK_BYTES", 64)  # or the whole file would be in its buffer
    dataset = load(tmp_path, file, tokenizer).training
    collator, keys = make_collator(tokenizer), [list(range(k, k + 4)) for k in range(0, 160, 4)]
    expected = [collator(dataset.__getitems__(batch)) for batch in keys]
    dataset.__getitems__(keys[0])  # so that its files are open in the middle
    loader = DataLoader(dataset, batch_sampler=keys, collate_fn=collator, num_workers=2)
    assert_same_batches(list(loader), expected)


def test_a_block_is_shuffled_and_whole(tmp_path, file, tokenizer):
    dataset = load(tmp_path, file, tokenizer).training
    for block in (0, 1, 5):
        batch = dataset.__getitems__(range(block * BLOCK, (block + 1) * BLOCK))
        numbers = batch.examples.tolist()
        assert numbers != sorted(numbers)
        windows = Cursor(dataset.streams[0], Mark()).take((block + 1) * BLOCK)[block * BLOCK :]
        expected = sorted((window.pass_number, window.number) for window in windows)
        assert sorted(zip(batch.epochs.tolist(), numbers, strict=True)) == expected
    other_seed = load(tmp_path, file, tokenizer, seed=1).training
    assert other_seed[0].examples != dataset[0].examples


def count_encoded(monkeypatch) -> list[int]:
    """Lengths of the documents that are encoded from now on."""
    seen: list[int] = []
    original = Encoder.__call__

    def counted(self, documents):
        seen.extend(len(document) for document in documents if document)
        return original(self, documents)

    monkeypatch.setattr(Encoder, "__call__", counted)
    return seen


def test_bookmarks_spare_the_way_and_change_nothing(tmp_path, file, tokenizer, monkeypatch):
    keys = range(9 * BLOCK + 3, 9 * BLOCK + 11)
    dataset = load(tmp_path, file, tokenizer).training
    expected = dataset.__getitems__(keys)
    assert expected.epochs.max() >= 1
    (path,) = (tmp_path / "tokens").glob("*.bookmarks.jsonl")
    seen = count_encoded(monkeypatch)

    def again() -> int:
        seen.clear()
        batch = pickle.loads(pickle.dumps(dataset)).__getitems__(keys)
        assert batch.examples.tolist() == expected.examples.tolist()
        assert batch.epochs.tolist() == expected.epochs.tolist()
        for window, other in zip(batch.windows, expected.windows, strict=True):
            np.testing.assert_array_equal(window, other)
        return len(seen)

    with_bookmarks = again()
    path.write_text(path.read_text() + '{"window": 3')  # a process killed while writing
    assert again() == with_bookmarks
    path.unlink()
    assert again() > 2 * with_bookmarks


def test_going_back_reads_again(tmp_path, file, tokenizer):
    dataset = load(tmp_path, file, tokenizer).training
    early, late = (dataset.__getitems__(range(k, k + 5)) for k in (3, 5 * BLOCK))
    for k, expected in ((3, early), (5 * BLOCK, late), (3, early)):
        batch = dataset.__getitems__(range(k, k + 5))
        assert batch.examples.tolist() == expected.examples.tolist()
        assert batch.windows[0].tolist() == expected.windows[0].tolist()


def test_the_next_block_is_read_while_this_one_is_given(tmp_path, file, tokenizer, monkeypatch):
    dataset = load(tmp_path, file, tokenizer, window_tokens=64).training
    dataset.__getitems__(range(4))
    seen = count_encoded(monkeypatch)
    work = []
    for first in range(4, 4 * BLOCK, 4):
        before = len(seen)
        dataset.__getitems__(range(first, first + 4))
        work.append(len(seen) - before)
    # Reading a whole block at once would take a fifth of all the work in one call.
    assert max(work) < sum(work) / 8


# ---- held out -----------------------------------------------------------------------------------


def test_held_out_documents_are_never_trained_on(tmp_path, file, tokenizer, texts):
    windows = load(tmp_path, file, tokenizer, validation_percentage=10.0, max_validation_examples=4)
    rule = windows.training.streams[0].held_out
    held_out = [n for n in range(NUM_DOCUMENTS) if rule.has(n)]
    assert 3 <= len(held_out) < 15 and held_out[0] == 9
    assert rule.num_documents < NUM_DOCUMENTS  # later ones are trained on: nothing is wasted
    trained = np.concatenate([w.tokens for w in first_pass(windows.training)]).tolist()

    def encode(numbers):
        rows = [tokenizer(texts[n], add_special_tokens=False).input_ids for n in numbers]
        return [token for row in rows for token in row]

    assert trained == encode(n for n in range(NUM_DOCUMENTS) if n not in held_out)
    batch = windows.held_out.__getitems__(range(4))
    assert len(windows.held_out) == 4
    for number, window in zip(batch.examples.tolist(), batch.windows, strict=True):
        assert window.tolist() == encode(held_out)[16 * number :][:16]


def test_one_long_document_cannot_be_split(tmp_path, tokenizer):
    path = tmp_path / "a.txt"
    path.write_text("the cat sees the dog and the bird " * 200)
    with pytest.raises(UserError, match="split by documents. Give a --validation_file"):
        load(tmp_path, path, tokenizer, validation_percentage=5.0)


def test_a_limit_repeats_the_first_windows(tmp_path, file, tokenizer):
    dataset = load(tmp_path, file, tokenizer, max_train_examples=10).training
    batch = dataset.__getitems__(range(BLOCK))
    assert set(batch.examples.tolist()) == set(range(10))
    assert sorted(batch.epochs.tolist()) == sorted([0] * 10 + [1] * 10 + [2] * 10 + [3] * 2)


# ---- mixtures -----------------------------------------------------------------------------------


def test_every_block_has_the_shares_of_the_weights(tmp_path, tokenizer):
    for name, count in (("a", 60), ("b", 200)):
        lines = make_sentences(count, seed=count)
        (tmp_path / f"{name}.txt").write_text("\n".join(lines) + "\n")
    files = f"{tmp_path}/a.txt,{tmp_path}/b.txt"
    windows = load(tmp_path, files, tokenizer, mixing_weights="3,1")
    assert windows.training.counts == [24, 8]
    seen = set()
    for block in range(8):
        batch = windows.training.__getitems__(range(block * BLOCK, (block + 1) * BLOCK))
        owners = batch.examples % 2
        assert np.count_nonzero(owners == 0) == 24
        seen |= set(zip(batch.epochs.tolist(), batch.examples.tolist(), strict=True))
    assert len(seen) == 8 * BLOCK  # no (epoch, example) twice: every mask is another one
    with pytest.raises(UserError, match="need the size of each source"):
        load(tmp_path, files, tokenizer, mixing_temperature=2.0)
    with pytest.raises(UserError, match="none of 32 windows"):
        load(tmp_path, files, tokenizer, mixing_weights="1,0.0001")


# ---- accidents ----------------------------------------------------------------------------------


def break_reading(monkeypatch, *, after: int, times: int):
    """Every reading of rows fails `times` times after so many rows, as a network might."""
    original, failures = corpora_t5.read_rows, []

    def flaky(path, **kwargs):
        for number, row in enumerate(original(path, **kwargs)):
            if number == after and len(failures) < times:
                failures.append(number)
                raise ConnectionResetError("reset by peer")
            yield row

    monkeypatch.setattr(corpora_t5, "read_rows", flaky)
    return failures


def test_reading_goes_on_after_a_failure(file, texts, monkeypatch):
    (source,) = find_sources(files=str(file))
    failures = break_reading(monkeypatch, after=40, times=2)
    batches = list(read_documents(source, streaming=True))
    assert [text for batch in batches for text in batch.texts] == texts
    assert len(failures) == 2
    for batch in batches[::5]:
        rest = read_documents(source, start=batch.position)
        assert next(rest).texts == texts[batch.position.document :][:7]


def test_a_stream_that_dies_says_how_far_it_got(tmp_path, file, tokenizer, monkeypatch):
    dataset = load(tmp_path, file, tokenizer).training
    break_reading(monkeypatch, after=40, times=1000)
    with pytest.raises(UserError, match=r"failed 3 times .*reset by peer.*The 35 documents.*same"):
        dataset.__getitems__(range(BLOCK * 3))


def test_a_damaged_file_is_no_end_of_a_pass(tmp_path, file, tokenizer):
    damaged = tmp_path / "b.jsonl.gz"
    data = gzip.compress(file.read_bytes())
    damaged.write_bytes(data[: len(data) // 2])
    dataset = load(tmp_path, damaged, tokenizer).training
    with pytest.raises(UserError, match=r"damaged or cut off.*documents of .* were read"):
        for key in range(0, 1000, 8):
            dataset.__getitems__(range(key, key + 8))


def test_text_of_spaces_ends_with_a_sentence(tmp_path, tokenizer):
    path = tmp_path / "a.txt"
    path.write_text("   \n \n")
    with pytest.raises(UserError, match="a whole pass over it gave no window"):
        load(tmp_path, path, tokenizer).training.__getitems__([0])


def test_positions_and_marks_survive_their_file(tmp_path):
    mark = Mark(7, 1, 2, Position(5, 1, 2, {"shard": 3}), skip_documents=1, skip_tokens=9)
    bookmarks = Bookmarks(tmp_path / "b.jsonl")
    bookmarks.add(mark)
    bookmarks.add(Mark(6))  # not ahead of the last: not written
    again = Bookmarks(tmp_path / "b.jsonl")
    assert again.nearest(7) == mark and again.nearest(7).position.state == {"shard": 3}
    assert again.nearest(6) == Mark()


def test_held_out_rule():
    rule = HeldOut(percentage=25.0, num_documents=9)
    assert [n for n in range(20) if rule.has(n)] == [3, 7]
    assert not any(HeldOut().has(n) for n in range(100))


# ---- data sets of the library -------------------------------------------------------------------


@pytest.fixture
def parquet_folder(tmp_path, texts):
    import datasets

    folder = tmp_path / "parquet"
    folder.mkdir()
    for shard in range(3):
        part = {"text": texts[shard * 50 : shard * 50 + 50], "url": ["u"] * 50}
        datasets.Dataset.from_dict(part).to_parquet(folder / f"train-{shard}.parquet")
    return folder


def test_a_streamed_data_set_is_whole_in_every_worker(tmp_path, parquet_folder, file, tokenizer):
    settings = {"dataset_paths": str(parquet_folder)}
    dataset = load(tmp_path, None, tokenizer, **settings).training
    collator, sampler = make_collator(tokenizer), SequentialSampler(range(240))
    of_file = load(tmp_path, file, tokenizer).training
    expected = batches_of(of_file, sampler, collator=collator, num_workers=0, num_ranks=1)
    for start in (0, 40):
        layout = {"num_workers": 2, "num_ranks": 1, "start": start}
        found = batches_of(dataset, sampler, collator=collator, **layout)
        assert_same_batches(found, expected[start:])
    (path,) = {p for p in (tmp_path / "tokens").glob("*.jsonl") if "shard_idx" in p.read_text()}
    assert len(path.read_text().splitlines()) >= 3


def test_data_sets_read_before_training(tmp_path, parquet_folder, texts, file, tokenizer):
    import datasets

    saved = tmp_path / "saved"
    datasets.Dataset.from_dict({"text": texts}).save_to_disk(saved)
    expected = load(tmp_path, file, tokenizer, streaming=False).training
    for path in (parquet_folder, saved):
        data = load(tmp_path, None, tokenizer, streaming=False, dataset_paths=str(path)).training
        assert len(data) == len(expected)
        keys = range(len(data))
        found, wanted = data.__getitems__(keys).windows, expected.__getitems__(keys).windows
        assert all(np.array_equal(a, b) for a, b in zip(found, wanted, strict=True))


# ---- a whole run --------------------------------------------------------------------------------


def test_a_streamed_run_goes_on_to_the_same_weights(tmp_path, file, tokenizer_dir, monkeypatch):
    def words(name: str) -> list[str]:
        return [
            *("--config_name", "t5-v1_1-small", "--use_cpu", "--bf16", "False"),
            *("--config_overrides", "d_model=32,d_kv=8,d_ff=64,num_layers=1,num_heads=4"),
            *("--train_file", str(file), "--tokenizer_name", str(tokenizer_dir), "--streaming"),
            *("--tokenized_dataset_dir", str(tmp_path / name), "--output_dir"),
            *(str(tmp_path / f"{name}.out"), "--input_seq_length", "32", "--max_steps", "30"),
            *("--per_device_train_batch_size", "4", "--save_steps", "10", "--logging_steps", "1"),
            *("--eval_strategy", "no"),
        ]

    class Interrupted(Exception):
        pass

    seen: list[int] = []
    passes: list[int] = []
    fetch = streams_t5.StreamedWindows.__getitems__

    def recorded(self, keys):
        seen.extend(keys)
        rows = fetch(self, keys)
        passes.extend(rows.epochs.tolist())
        return rows

    with monkeypatch.context() as patch:
        patch.setattr(streams_t5.StreamedWindows, "__getitems__", recorded)
        whole = pre_train_t5.main(words("whole"))
    assert seen[:120] == list(range(120))  # 30 steps of 4, in order
    assert (
        max(passes[:40]) < max(passes[:120]) >= 2
    )  # passes begin behind the checkpoint of step 10
    original = pre_train_t5.T5Trainer.training_step

    def stop_at_thirteenth(self, *args, **kwargs):
        if self.state.global_step == 12:
            raise Interrupted
        return original(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(pre_train_t5.T5Trainer, "training_step", stop_at_thirteenth)
        with pytest.raises(Interrupted):
            pre_train_t5.main(words("part"))
    part = pre_train_t5.main([*words("part"), "--dataloader_num_workers", "2"])
    assert part["eval_loss"] == whole["eval_loss"]
    folders = [tmp_path / f"{name}.out" for name in ("whole", "part")]
    assert history(folders[0]) == history(folders[1])
    assert len([entry for entry in history(folders[0]) if "grad_norm" in entry]) == 30
    assert weights(folders[0]) == weights(folders[1])
    shutil.rmtree(tmp_path / "part")


def test_flags_that_do_not_go_with_a_stream(tmp_path, file, tokenizer_dir):
    words = ["--train_file", str(file), "--streaming", "--output_dir", str(tmp_path / "out")]
    with pytest.raises(UserError, match="nothing to do for --streaming"):
        parse_flags(PRE_TRAINING, [*words, "--preprocess_only"])
    words += ["--tokenizer_name", str(tokenizer_dir), "--use_cpu", "--bf16", "False"]
    with pytest.raises(UserError, match="Give --max_steps with --streaming"):
        pre_train_t5.main([*words, "--max_steps", "-1"])
