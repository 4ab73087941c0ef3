"""Proves which tasks a list names, what their metrics are called, and the one number that several
splits or tasks are chosen by."""

import dataclasses

import pytest
import yaml

from errors import UserError
from metrics import AVERAGES
from task_rows_t5 import TaskDataset
from task_sets_t5 import Sources, TaskSets, find_tasks, score_table, summary_of, task_stems
from tasks import checked_rows, find_task


def sets_of(names: str, *, benchmark: str = "glue") -> list[TaskSets]:
    tasks = find_tasks(benchmark, names, task_file=None)
    return [
        TaskSets(
            task,
            stem,
            {split: object() for splits in task.splits.values() for split in splits},
            is_alone=len(tasks) == 1,
        )
        for task, stem in zip(tasks, task_stems(tasks), strict=True)
    ]


def test_a_list_names_tasks_of_any_benchmark():
    def named(names, benchmark="glue"):
        return [str(task) for task in find_tasks(benchmark, names, task_file=None)]

    assert named("sst2,mrpc") == ["glue/sst2", "glue/mrpc"]
    assert named("glue/sst2, super_glue/cb") == ["glue/sst2", "super_glue/cb"]
    everything = named("all")
    assert {"glue/cola", "glue/mnli", "glue/wnli"} <= set(everything)
    assert set(named("super_glue/all,sst2")) > {"super_glue/copa", "glue/sst2"}
    for wrong in ("sst2,sts2", "sst2,sst2", "superglue/cb"):
        with pytest.raises(UserError):
            named(wrong)


def test_names_that_repeat_get_their_benchmark():
    assert [s.stem for s in sets_of("sst2,super_glue/cb")] == ["sst2", "cb"]
    assert [s.stem for s in sets_of("rte,super_glue/rte")] == ["glue_rte", "super_glue_rte"]


def test_mnli_alone_has_the_mean_of_its_two_sets():
    sets = sets_of("mnli")
    prefixes = [p for p, role, _, _ in sets[0].scored() if role == "validation"]
    assert prefixes == ["eval_mnli_matched", "eval_mnli_mismatched"]
    metrics = {"eval_mnli_matched_accuracy": 80.0, "eval_mnli_mismatched_accuracy": 84.0}
    assert summary_of(sets, metrics, "eval") == {"eval_accuracy": 82.0}


def test_several_tasks_are_chosen_by_the_mean_of_their_own_metrics():
    sets = sets_of("mnli,mrpc,super_glue/cb")
    metrics = {
        "eval_mnli_matched_accuracy": 80.0,
        "eval_mnli_mismatched_accuracy": 84.0,
        "eval_mrpc_f1": 90.0,
        "eval_mrpc_accuracy": 10.0,
        "eval_cb_f1_macro": 30.0,
        "eval_cb_accuracy": 50.0,
    }
    own = metrics[f"eval_cb_{find_task('super_glue', 'cb').metric_to_optimize}"]
    found = summary_of(sets, metrics, "eval")
    assert found == {
        "eval_mnli_accuracy": 82.0,
        "eval_mean": pytest.approx((82 + 90 + own) / 3),
    }
    table = score_table(sets, metrics | found, "eval")
    assert "mnli  accuracy 82.00" in table and "f1 90.00  accuracy 10.00" in table
    assert "no average of glue: cola" in table


def test_a_whole_benchmark_has_its_own_average():
    sets = sets_of("all")
    metrics = {
        f"{prefix}_{name}": 60.0 + (name == "f1") * 20
        for task_sets in sets
        for prefix, role, _, _ in task_sets.scored()
        for name in task_sets.task.metric_names
        if role == "validation"
    }
    expected = (7 * 60 + 2 * 70) / len(AVERAGES["glue"])
    assert summary_of(sets, metrics, "eval")["eval_glue_average"] == pytest.approx(expected)


def test_all_of_a_benchmark_with_a_family_and_of_a_file(tmp_path):
    names = [task.name for task in find_tasks("translation", "all", task_file=None)]
    assert "multi30k_en_de" in names and not any("{" in name for name in names)
    own = {"prefix": "p:", "text_column_name": "text", "label_column_name": "label", "labels": None}
    own |= {"metric_to_optimize": "exact_match", "metric_names": ["exact_match"]}
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump({"mine": {"one": own, "two": own}}))
    assert [str(t) for t in find_tasks("mine", "all", task_file=str(file))] == [
        "mine/one",
        "mine/two",
    ]


def test_a_split_is_described_with_the_lengths_of_its_inputs_and_targets(tokenizer):
    task = find_task("glue", "cola")
    rows = {"train": [{"sentence": "the cat", "label": 0}], "test": [{"sentence": "the cat sees"}]}
    settings = {"tokenizer": tokenizer, "input_length_tokens": 64, "target_length_tokens": 8}
    by_name = {
        name: TaskDataset(
            list(checked_rows(task, of_split, source="", role=name)), task=task, **settings
        )
        for name, of_split in rows.items()
    }
    train, test = TaskSets(task, "cola", by_name).describe().splitlines()[1:]
    num_inputs, num_targets = by_name["train"].lengths(0)[0]
    assert num_targets == 8  # 'unacceptable' in small pieces, cut
    assert f"1 rows, inputs up to {num_inputs} tokens, targets up to 8, truncated: 0.00%" in train
    assert "100.00% of targets" in train
    assert "targets up to" not in test  # hidden labels have no targets


def test_rows_lie_in_the_benchmarks_folder_or_in_the_tasks_own(tmp_path):
    def folder_of(task):
        return Sources(files={}, data_dir=str(tmp_path), most={}).folder_of(task)

    rte = find_task("glue", "rte")
    assert folder_of(rte) == tmp_path
    (tmp_path / "glue").mkdir()
    assert folder_of(rte) == tmp_path / "glue"  # the message then names this folder
    (tmp_path / "rte.train.jsonl").touch()
    assert folder_of(rte) == tmp_path
    (tmp_path / "glue" / "rte.train.jsonl").touch()
    assert folder_of(rte) == tmp_path / "glue"
    # A file of one task: its benchmark has the task's name, and so may the folder of its rows.
    own = dataclasses.replace(rte, benchmark="order", name="order")
    (tmp_path / "order").mkdir()
    (tmp_path / "order" / "train.tsv").touch()
    assert folder_of(own) == tmp_path
