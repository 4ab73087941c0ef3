"""Proves that every check finds what it is for and says what to do, that all problems of a run come
in one message before anything is read, and that a run without any is told so in one line."""

import json
import os
from pathlib import Path

import pytest
import torch
from conftest import make_checkpoint, make_sentences
from transformers import T5Config

import fine_tune_t5
import plan_t5
import pre_train_t5
import preflight_t5
from arguments_t5 import FINE_TUNING, PRE_TRAINING
from corpora_t5 import find_sources
from errors import Problems, SaidElsewhere, UserError, run_program
from flags import parse_flags
from model_t5 import shape_of
from plan_t5 import plan_model
from preflight_t5 import (
    Findings,
    Preflight,
    check_disk,
    check_hub,
    check_memory,
    check_precision,
    check_rows,
    check_text,
    check_wandb_login,
    plan_engine,
    rough_model,
    sample_documents,
)
from task_sets_t5 import Sources, find_tasks
from zero_t5 import read_zero

ROOT = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")


def problems_of(main, words: list[str]) -> list[str]:
    """The problems of a run that does not start, one by one."""
    with pytest.raises(UserError) as found:
        main(words)
    head, *lines = str(found.value).splitlines()
    assert head == f"{len(lines)} problems:"
    return [line.strip() for line in lines]


# ---- together -----------------------------------------------------------------------------------


def test_a_problem_does_not_hide_the_next():
    checks = Preflight()
    for name, message in (("a", "A is wrong."), ("b", None), ("c", "C is wrong.")):
        with checks(name) as found:
            found.say(f"{name} was looked at")
            found.warn(f"{name} is odd")
            if message:
                raise UserError(message)
    assert checks.summary() == "preflight  ok 0, warnings 1, problems 2"
    assert checks.warnings() == ["b: b is odd"]
    with pytest.raises(UserError, match="^2 problems:\n  1. A is wrong.\n  2. C is wrong.$"):
        checks.conclude(rank=0, num_ranks=1, in_full=False)


def test_a_defect_is_not_taken_for_a_problem():
    with pytest.raises(ZeroDivisionError), Preflight()("a"):
        print(1 / 0)


def test_one_problem_stands_alone_and_none_is_one_line(capsys):
    checks = Preflight()
    with checks("disk") as found:
        found.say("12 GB free")
    checks.conclude(rank=0, num_ranks=1, in_full=False)
    assert capsys.readouterr().out == "preflight  ok 1, warnings 0\n"
    checks.conclude(rank=0, num_ranks=1, in_full=True)
    assert "\n  disk  12 GB free\n" in capsys.readouterr().out
    with checks("tokenizer"):
        raise UserError("No tokenizer.")
    with pytest.raises(UserError, match="^No tokenizer.$"):
        checks.conclude(rank=0, num_ranks=1, in_full=False)


def test_all_ranks_stop_for_the_problem_of_one_and_one_speaks(monkeypatch, capsys):
    everywhere = [(0, ["Same."], ["w"]), (1, [], []), (8, ["Same.", "No disk."], ["w", "v"])]
    monkeypatch.setattr(preflight_t5, "gather_object", lambda mine: everywhere)
    with pytest.raises(UserError, match="1. Same.\n  2. rank 8: No disk.$") as first:
        Preflight().conclude(rank=0, num_ranks=9, in_full=False)
    assert not isinstance(first.value, SaidElsewhere)
    out = capsys.readouterr().out.splitlines()
    assert out[1:] == ["warning    w", "warning    rank 8: v"]

    def other_rank():
        Preflight().conclude(rank=1, num_ranks=9, in_full=False)

    with pytest.raises(SystemExit) as ended:
        run_program(other_rank)
    assert ended.value.code == 2 and capsys.readouterr() == ("", "")


def test_all_problems_of_a_pre_training_come_before_any_reading(
    tmp_path, tokenizer_dir, monkeypatch
):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(pre_train_t5, "read_corpus", None)
    (tmp_path / "text.jsonl").write_text('{"txt": "a"}\n')
    (tmp_path / "out").write_text("")
    words = ["--train_file", f"{tmp_path}/text.jsonl", "--validation_file", f"{tmp_path}/no.txt"]
    words += ["--config_name", "t5-v1_1-small", "--config_overrides", "d_modell=32"]
    words += ["--tokenizer_name", str(tokenizer_dir), "--input_seq_length", "2048"]
    words += ["--output_dir", f"{tmp_path}/out/run", "--report_to", "wandb", "--use_cpu"]
    found = problems_of(pre_train_t5.main, words)
    expected = ["cannot be written", "needs 114 sentinel", "no column 'text', found ['txt']"]
    expected += ["no file matches", "Did you mean d_model", "wandb login"]
    assert len(found) == len(expected)
    assert all(part in text for part, text in zip(expected, found, strict=True))


def test_all_problems_of_a_fine_tuning_come_before_any_model(tmp_path, tokenizer_dir, monkeypatch):
    monkeypatch.setattr(fine_tune_t5, "make_model", None)
    rows = '{"sentence": "a", "label": 0}\n{"sentence": "b", "label": 3}\n'
    (tmp_path / "sst2.train.jsonl").write_text(rows)
    (tmp_path / "sst2.validation.jsonl").write_text('{"text": "a", "label": 1}\n')
    words = ["--data_dir", str(tmp_path), "--tokenizer_name", str(tokenizer_dir), "--use_cpu"]
    words += ["--config_name", "t5-v1_1-small", "--output_dir", str(tmp_path / "out")]
    words += ["--config_overrides", "d_model=32,d_kv=8,d_ff=64,num_layers=1,num_heads=4"]
    words += ["--metric_for_best_model", "acuracy", "--mixing", "equal"]
    words += ["--lora_r", "4", "--lora_merge", "True"]
    found = problems_of(fine_tune_t5.main, words)
    expected = ["--optim t5_adafactor makes each step", "Did you mean accuracy", "--mixing and"]
    expected += ["sst2.train.jsonl, row 2: ", "there is no column 'sentence'"]
    assert len(found) == len(expected)
    assert all(part in text for part, text in zip(expected, found, strict=True))


@pytest.mark.parametrize(
    ("batching", "num_examples"),
    [("random", 100), ("grouped", 5), ("packed --tokens_per_batch 4096", 8)],
)
def test_memory_is_asked_for_what_a_training_batch_can_hold(
    tmp_path, tokenizer_dir, monkeypatch, batching, num_examples
):
    asked = {}
    monkeypatch.setattr(fine_tune_t5, "check_machine", lambda checks, **given: asked.update(given))
    rows = [{"sentence": "a", "label": 1}] * 99 + [{"sentence": "a b " * 200, "label": 1}]
    for role, number in (("train", 1), ("validation", 9)):
        of_role = [{**row, "sentence": row["sentence"] * number} for row in rows]
        text = "".join(json.dumps(row) + "\n" for row in of_role)
        (tmp_path / f"sst2.{role}.jsonl").write_text(text)
    words = ["--data_dir", str(tmp_path), "--tokenizer_name", str(tokenizer_dir), "--use_cpu"]
    words += ["--input_seq_length", "4096", "--per_device_train_batch_size", "100"]
    words += ["--output_dir", str(tmp_path / "out"), "--train_batching", *batching.split()]
    fine_tune_t5.check(*parse_flags(FINE_TUNING, words))
    longest = asked["input_tokens"] + asked["target_tokens"]
    assert 400 < longest < 1300  # not the 9 times as long one, which nothing is learnt from
    if "tokens_per_batch" in batching:
        num_examples = -(-4096 // longest)
    assert asked["examples_per_device"] == pytest.approx(num_examples, abs=4)
    assert (asked["examples_per_device"] == 100) == (batching == "random")


def test_mistakes_in_flags_come_together(tmp_path):
    words = ["--config_name", "t5-v1_2-small", "--mlm_probability", "2", "--z_loss", "3"]
    found = problems_of(pre_train_t5.main, [*words, "--train_file", "x.txt"])
    assert [text[3:].split()[0] for text in found] == [
        "--config_name",
        "--mlm_probability",
        "--z_loss",
    ]
    found = problems_of(pre_train_t5.main, ["--max_stepps", "3", "--sed", "4"])
    assert "Did you mean max_steps?" in found[0] and "Did you mean seed?" in found[1]


def test_looking_at_examples_asks_for_no_model(tmp_path, tokenizer_dir, capsys):
    (tmp_path / "text.txt").write_text("\n".join(make_sentences(60)))
    words = ["--train_file", f"{tmp_path}/text.txt", "--tokenizer_name", str(tokenizer_dir)]
    words += ["--model_name_or_path", "nobody/nothing", "--show_examples", "1", "--use_cpu"]
    words += ["--output_dir", f"{tmp_path}/out", "--tokenized_dataset_dir", f"{tmp_path}/tokens"]
    assert pre_train_t5.main([*words, "--input_seq_length", "32"]) == {}
    assert "example 0 inputs " in capsys.readouterr().out


# ---- text and rows ------------------------------------------------------------------------------


def findings(check, *args, **settings) -> Findings:
    found = Findings()
    check(found, *args, **settings)
    return found


def test_text_without_tokens_is_a_warning_with_its_characters(tmp_path, tokenizer):
    (tmp_path / "a.txt").write_text("the cat sees a bird\n" * 50)
    (tmp_path / "b.txt").write_text("кот видит птицу\n" * 50)
    known, unknown = find_sources(files=f"{tmp_path}/a.txt,{tmp_path}/b.txt")
    good = findings(check_text, known, tokenizer=tokenizer, is_streamed=False)
    assert good.warnings == [] and "0.00% unknown" in good.said[0]
    bad = findings(check_text, unknown, tokenizer=tokenizer, is_streamed=False)
    assert "of the tokens in" in bad.warnings[0] and "и" in bad.warnings[0]


def test_only_the_beginning_of_a_corpus_is_read(tmp_path):
    for number in range(20):
        (tmp_path / f"{number:02}.txt").write_text(f"{number:02} {'x' * 96}\n" * 4000)
    (source,) = find_sources(files=f"{tmp_path}/*.txt")
    sample = sample_documents(source, is_streamed=False, most_characters=8000)
    assert {text[:2] for text in sample.documents} >= {"00", "19"}
    assert sum(map(len, sample.documents)) == 8000
    assert sample.read_bytes < source.num_file_bytes()


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read(tmp_path):
    (tmp_path / "a.txt").write_text("a\n")
    (tmp_path / "a.txt").chmod(0)
    (source,) = find_sources(files=f"{tmp_path}/a.txt")
    with pytest.raises(UserError, match="chmod"):
        sample_documents(source, is_streamed=False)


def rows_checked(tmp_path, tokenizer, rows: list[dict], *, limits=(16, 8), role="train"):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    sources = Sources(
        {"train": None, "validation": None, "test": None} | {role: str(path)}, None, {role: None}
    )
    (task,) = find_tasks("glue", "sst2", task_file=None)
    found = Findings()
    longest = check_rows(
        found,
        task,
        sources=sources,
        role=role,
        tokenizer=tokenizer,
        input_length_tokens=limits[0],
        target_length_tokens=limits[1],
    )
    return found, longest


def test_truncated_rows_say_which_length_is_enough(tmp_path, tokenizer):
    rows = [{"sentence": "a cat " * (1 + i % 20), "label": i % 2} for i in range(100)]
    found, longest = rows_checked(tmp_path, tokenizer, rows)
    assert longest == (16, 8, 24)
    inputs, targets = found.warnings
    assert "the train inputs are longer than --input_seq_length 16" in inputs
    enough = int(inputs.partition(" holds 99 %")[0].rpartition(" ")[2])
    found, longest = rows_checked(tmp_path, tokenizer, rows, limits=(enough, 64))
    assert [text for text in found.warnings if "longer" in text] == []
    assert 16 < longest[0] <= enough and 8 < longest[1] <= 64
    assert 24 < longest.mean_tokens < longest[0] + longest[1]


def test_rows_with_unknown_tokens_and_without_labels(tmp_path, tokenizer):
    rows = [{"sentence": "кот", "label": 1}] * 10
    found, _ = rows_checked(tmp_path, tokenizer, rows, limits=(64, 64))
    assert any("tokens in the train inputs are <unk>" in text for text in found.warnings)
    rows = [{"sentence": "a cat"}] * 3
    found, longest = rows_checked(tmp_path, tokenizer, rows, role="test", limits=(64, 64))
    assert longest[1] == 0 and not any("targets" in text for text in found.said)


def test_rows_of_the_hub_are_left_to_their_reading(tokenizer):
    (task,) = find_tasks("glue", "sst2", task_file=None)
    sources = Sources({"train": None, "validation": None, "test": None}, None, {"train": None})
    settings = {"role": "train", "input_length_tokens": 8, "target_length_tokens": 8}
    found = findings(check_rows, task, sources=sources, tokenizer=tokenizer, **settings)
    assert found.said == ["on the Hub: looked at when they are read"]


# ---- network ------------------------------------------------------------------------------------


def test_without_the_hub_only_what_is_cached_may_be_asked_for(tmp_path, monkeypatch):
    import datasets
    import huggingface_hub

    monkeypatch.setattr(preflight_t5, "use_hub", lambda: False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path))
    cached = {"me/here": "/somewhere/model.safetensors"}
    monkeypatch.setattr(
        huggingface_hub, "try_to_load_from_cache", lambda name, file: cached.get(name)
    )
    assert findings(check_hub).said == []
    (tmp_path / "me___texts").mkdir()
    found = findings(check_hub, models=["me/here"], datasets=["me/texts"])
    assert "from the cache" in found.said[0]
    with pytest.raises(UserError, match="me/away, you/texts are not here.*--train_file"):
        check_hub(Findings(), models=["me/here", "me/away"], datasets=["you/texts"])
    monkeypatch.setattr(preflight_t5, "use_hub", lambda: True)
    assert findings(check_hub, models=["me/away"]).said == ["me/away from the Hub"]


@pytest.mark.parametrize(
    ("environment", "netrc", "said"),
    [
        ({"WANDB_MODE": "offline"}, "", "wandb, mode offline"),
        ({"WANDB_API_KEY": "k" * 40}, "", "with a key of the environment"),
        ({}, "machine api.wandb.ai login user password secret", "with the key of"),
        ({"WANDB_BASE_URL": "http://own:80"}, "machine own login u password secret", "the key of"),
        ({}, "machine own login u password secret", None),
        ({"WANDB_API_KEY": ""}, "", None),
        ({}, "machine", None),
    ],
)
def test_a_wandb_key_is_looked_for_where_wandb_does(tmp_path, environment, netrc, said):
    (tmp_path / ".netrc").write_text(netrc)
    settings = {"environment": environment, "home": tmp_path}
    assert findings(check_wandb_login, ["tensorboard"], **settings).said == ["tensorboard"]
    if said is None:
        with pytest.raises(UserError, match="WANDB_MODE=offline"):
            check_wandb_login(Findings(), ["wandb"], **settings)
    else:
        (text,) = findings(check_wandb_login, ["wandb"], **settings).said
        assert said in text and "secret" not in text


def write_wandb_settings(folder: Path, text: str) -> None:
    folder.mkdir(parents=True)
    (folder / "settings").write_text(f"[default]\n{text}\n")


def test_what_wandb_was_told_for_good_counts(tmp_path):
    environment = {"WANDB_DIR": str(tmp_path / "project")}
    settings = {"environment": environment, "home": tmp_path}
    write_wandb_settings(tmp_path / ".config/wandb", "base_url = https://own:8080")
    (tmp_path / ".netrc").write_text("machine own:8080 login user password secret")
    (text,) = findings(check_wandb_login, ["wandb"], **settings).said
    assert "with the key of" in text  # wandb login --host https://own:8080
    (tmp_path / ".netrc").unlink()
    with pytest.raises(UserError, match="no key for own:8080 .*WANDB_MODE=offline"):
        check_wandb_login(Findings(), ["wandb"], **settings)
    write_wandb_settings(tmp_path / "project/wandb", "mode = offline")  # wandb offline
    (text,) = findings(check_wandb_login, ["wandb"], **settings).said
    assert text == "wandb, mode offline"
    with pytest.raises(UserError, match="no key"):
        online = environment | {"WANDB_MODE": "online"}
        check_wandb_login(Findings(), ["wandb"], environment=online, home=tmp_path)


# ---- machine ------------------------------------------------------------------------------------


def test_precision_that_the_device_imitates():
    settings = {"fp16": False, "device": CPU}
    assert not findings(check_precision, bf16=True, computes_bf16=True, **settings).warnings
    assert not findings(check_precision, bf16=False, computes_bf16=False, **settings).warnings
    imitated = findings(check_precision, bf16=True, computes_bf16=False, **settings)
    assert "Leave --bf16 out" in imitated.warnings[0]
    half = {"bf16": False, "fp16": True, "computes_bf16": True}
    with pytest.raises(UserError, match="--fp16 on a CPU"):
        check_precision(Findings(), device=CPU, **half)
    assert findings(check_precision, device=torch.device("cuda"), **half).warnings


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("offload", [None, "none", "cpu"])
def test_the_plan_knows_every_engine(tmp_path, stage, offload):
    settings = {"zero_optimization": {"stage": stage}}
    if offload:
        settings["zero_optimization"]["offload_optimizer"] = {"device": offload}
    path = tmp_path / "zero.json"
    path.write_text(json.dumps(settings))
    name = plan_engine(str(path), is_fsdp=False)
    assert name in preflight_t5.ENGINES
    moves = " offload" if offload == "cpu" and stage >= 2 else ""
    assert name == (f"ZeRO-{stage}{moves}" if stage else "DDP")


def test_the_plan_knows_the_shipped_engines():
    names = [plan_engine(str(path), is_fsdp=False) for path in sorted(ROOT.glob("zero_*.json"))]
    assert names == ["ZeRO-2", "ZeRO-2 offload", "ZeRO-3", "ZeRO-3 offload"]
    assert plan_engine(None, is_fsdp=True) == "FSDP" and plan_engine(None, is_fsdp=False) == "DDP"
    assert read_zero(str(ROOT / "zero_stage2_config.json"))


SHAPES = {
    "many activations": ("d_model=64,d_kv=16,d_ff=128,num_layers=2,num_heads=4", (16, 96, 48)),
    "many parameters": ("d_model=256,d_kv=16,d_ff=1024,num_layers=2,num_heads=4", (2, 16, 8)),
    "long inputs": ("d_model=32,d_kv=16,d_ff=64,num_layers=1,num_heads=4", (2, 512, 8)),
    "long targets": ("d_model=32,d_kv=16,d_ff=64,num_layers=1,num_heads=4", (2, 8, 512)),
}


@pytest.mark.parametrize(
    ("name", "bf16", "attention"),
    [
        ("many activations", False, "lean"),
        ("many activations", True, "sdpa"),
        ("many parameters", False, "lean"),
        ("many parameters", True, "sdpa"),
        ("long inputs", True, "sdpa"),
        ("long targets", False, "eager"),
    ],
)
def test_the_rough_count_is_never_less_than_the_traced_one(name, bf16, attention):
    overrides, (num_examples, input_tokens, target_tokens) = SHAPES[name]
    shape = shape_of(
        name_or_path="",
        shape="t5-v1_1-small",
        dropout_rate=0.1,
        use_cpu=True,
        config_overrides=overrides,
        attn_implementation=attention,
    )
    settings = {
        "num_examples": num_examples,
        "input_tokens": input_tokens,
        "target_tokens": target_tokens,
        "bf16": bf16,
        "optimizer": "adamw_rms",
    }
    rough = rough_model(*shape, **settings)
    traced = plan_model(*shape, gradient_checkpointing=False, use_cpu=True, **settings)
    assert rough.num_parameters == traced.num_parameters
    assert rough.num_root_parameters == traced.num_root_parameters
    assert rough.num_block_parameters == traced.num_block_parameters
    for kind in ("plain_bytes", "shared_bytes"):
        most, count = (getattr(m, kind) for m in (rough, traced))
        assert count <= most, (kind, most / count)
    assert rough.plain_bytes <= 5 * traced.plain_bytes


TINY = T5Config(d_model=64, d_kv=16, d_ff=128, num_layers=1, num_heads=4, vocab_size=512)


def tiny_memory(
    *, free: float, total: float, config: T5Config = TINY, **changes
) -> tuple[Findings, object]:
    shape = shape_of(name_or_path="", shape="t5-v1_1-small", dropout_rate=0.0, use_cpu=True)
    settings = {
        "num_examples": 8,
        "input_tokens": 32,
        "target_tokens": 16,
        "bf16": False,
        "optimizer": "adamw_torch",
        "gradient_checkpointing": False,
        "use_cpu": True,
        "engine": "DDP",
        "num_ranks": 1,
        "trains_adapters": False,
        "free_bytes": free,
        "total_bytes": total,
    }
    found = Findings()
    model = check_memory(found, shape[0], config, **{**settings, **changes})
    return found, model


def test_a_step_larger_than_the_device():
    found, model = tiny_memory(free=1e9, total=1e9)
    assert found.said[0].startswith("at most ") and not found.warnings
    states = 16 * model.num_parameters  # weights, gradients and two averages, 4 bytes each
    with pytest.raises(UserError, match="Memory: a step of 8 examples needs .* --plan"):
        tiny_memory(free=states, total=states)
    found, _ = tiny_memory(free=states, total=1e9)
    assert "GB are free now" in found.warnings[0] and "at most" not in found.said[0]
    found, _ = tiny_memory(free=2 * states, total=1e9, trains_adapters=True, num_examples=1)
    assert not found.warnings


def test_a_step_that_fits_with_a_gpus_kernels_is_not_refused():
    """T5 v1.1 base at 512/114: 128 examples take 38.6 GB; where all scores are made, 63.2."""
    shape = {"name_or_path": "", "shape": "t5-v1_1-base", "dropout_rate": 0.0}
    sizes = {"num_examples": 128, "input_tokens": 512, "target_tokens": 114, "bf16": True}
    _, config = shape_of(**shape, use_cpu=False)
    found, _ = tiny_memory(free=50e9, total=50e9, config=config, use_cpu=False, **sizes)
    assert found.said[0].startswith("38.60 GB") and not found.warnings
    with pytest.raises(UserError, match="Memory: a step of 128 examples needs 63.2 GB"):
        tiny_memory(free=50e9, total=50e9, config=config, use_cpu=True, **sizes)


@pytest.mark.parametrize(
    ("engine", "untraced"), [("DDP", "shared_bytes"), ("ZeRO-2", "plain_bytes")]
)
def test_only_the_step_of_its_engine_is_traced(monkeypatch, engine, untraced):
    calls = []
    traced = plan_t5.step_bytes
    monkeypatch.setattr(
        plan_t5, "step_bytes", lambda *args, **given: calls.append(1) or traced(*args, **given)
    )
    _, model = tiny_memory(free=1, total=1e9, engine=engine, bf16=True)
    _, every = tiny_memory(free=1e9, total=1e9, engine=engine, bf16=True)
    assert len(calls) == 1 and getattr(model, untraced) is None
    assert 0 < preflight_t5.ENGINES[engine](model, 1).total
    assert (
        preflight_t5.ENGINES[engine](model, 1).total <= preflight_t5.ENGINES[engine](every, 1).total
    )


def test_a_disk_without_room(tmp_path):
    settings = {"checkpoint_bytes": 3e9, "model_bytes": 1e9, "num_kept": 2}
    found = findings(check_disk, tmp_path, free_bytes=10.1e9, **settings)
    assert found.said == [
        "10.00 GB for 2 checkpoints of 3.00 GB, the next one and the final model; 10.1 GB free"
    ]
    with pytest.raises(UserError, match="Disk: 10.00 GB .* 9.90 GB are free .*--save_total_limit"):
        check_disk(Findings(), tmp_path, free_bytes=9.9e9, **settings)


@pytest.mark.parametrize(
    ("given", "num_kept"),
    [
        ("--max_steps 1000 --save_steps 300", 2),
        ("--max_steps 1000 --save_steps 300 --save_total_limit None", 4),
        ("--max_steps 1000 --save_steps 0.3 --save_total_limit None", 4),
        ("--max_steps 100 --save_steps 300", 1),
        ("--max_steps 1000 --save_steps 1epochs --save_total_limit None", 1),
        ("--max_steps 1000 --warmup_steps 1epochs --save_steps 500 --save_total_limit None", 2),
        ("--save_strategy no --eval_strategy no --max_steps 9", 0),
    ],
)
def test_no_more_checkpoints_are_counted_than_the_run_keeps(tmp_path, given, num_kept):
    words = [*given.split(), "--output_dir", str(tmp_path), "--train_file", "a"]
    _, _, args = parse_flags(PRE_TRAINING, words)
    assert args.machine()["num_kept"] == num_kept


def test_only_the_process_that_tracks_needs_a_key(tmp_path, monkeypatch):
    words = ["--output_dir", str(tmp_path), "--train_file", "a", "--report_to", "wandb"]
    _, _, args = parse_flags(PRE_TRAINING, words)
    assert args.machine()["trackers"] == ["wandb"]
    monkeypatch.setattr(type(args), "process_index", 8)
    assert args.machine()["trackers"] == []


def test_room_that_old_checkpoints_take_will_be_free_again(tmp_path):
    make_checkpoint(tmp_path, 5, text="x" * 1000)
    settings = {"checkpoint_bytes": 4e3, "model_bytes": 1e3, "num_kept": 1}
    findings(check_disk, tmp_path, free_bytes=5e3, **settings)
    with pytest.raises(UserError, match="Disk"):
        check_disk(Findings(), tmp_path / "new", free_bytes=5e3, **settings)


def test_problems_are_said_once():
    problems = Problems()
    for text in ("a", "b", "a"):
        problems.add(text)
    with pytest.raises(UserError, match="^2 problems:\n  1. a\n  2. b$"):
        problems.raise_all()
