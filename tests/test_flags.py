"""Proves that flags and recipes parse as promised and that every mistake gets one sentence."""

import os
import warnings

import pytest
import torch
import yaml
from absl.testing import absltest, parameterized

import arguments_t5
import attention_t5
import training_arguments_t5
from arguments_t5 import FINE_TUNING, PRE_TRAINING
from errors import UserError
from flags import parse_flags
from run_files_t5 import make_output_dir, write_run_yaml


def parse(*words: str, classes=FINE_TUNING):
    return parse_flags(classes, words)


class SpellingTest(parameterized.TestCase):
    @parameterized.parameters(
        (["--bf16"], True),
        (["--bf16", "True"], True),
        (["--bf16=true"], True),
        (["--bf16", "false"], False),
        (["--bf16=False"], False),
    )
    def test_booleans(self, words, expected):
        self.assertEqual(parse(*words)[2].bf16, expected)

    @parameterized.parameters(
        ("--optimizer=adamw_torch", "optim", "adamw_torch"),
        ("--training_accumulation_steps=4", "gradient_accumulation_steps", 4),
        ("--gradient-accumulation-steps=4", "gradient_accumulation_steps", 4),
    )
    def test_spellings_of_the_original_scripts(self, word, name, value):
        self.assertEqual(getattr(parse(word)[2], name), value)

    def test_none_means_unset(self):
        self.assertIsNone(parse("--patience", "3", "--patience", "None")[1].patience)
        self.assertIsNone(parse("--save_total_limit=None")[2].save_total_limit)
        self.assertEqual(parse("--seed=None")[2].seed, 42)

    def test_gradient_checkpointing_is_known_by_this_name_without_a_warning(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error", FutureWarning)
            args = parse("--gradient_checkpointing", "--gradient_checkpointing_kwargs={}")[2]
        self.assertIs(args.gradient_checkpointing, True)
        self.assertEqual(args.gradient_checkpointing_kwargs, {})

    def test_the_last_mention_wins(self):
        self.assertEqual(parse("--seed", "1", "--seed=2")[2].seed, 2)

    @parameterized.parameters(
        (["--learning_rat", "1"], "Unknown flag --learning_rat. Did you mean learning_rate?"),
        (["--optim", "adamw_rns"], "--optim adamw_rns is not known. Did you mean adamw_rms?"),
        (["--seed", "one"], "argument --seed: invalid int value: 'one'"),
        (["--seed"], "--seed needs a value"),
        (["--output_dir", "a", "b"], "--output_dir takes one value, found 2: a b"),
        (["sst2"], "'sst2' is neither a flag nor a recipe"),
        (["--config"], "--config needs a YAML file"),
        (["--eval_with", "guess"], "invalid choice: 'guess'"),
        (["--config_name", "t5-v1_1-smal"], "Did you mean t5-v1_1-small?"),
        (["--input_seq_length", "0"], "--input_seq_length 0: expected at least 4"),
        (["--per_device_train_batch_size", "0"], "expected at least 1"),
        (["--max_train_examples", "-1"], "expected at least 1"),
        (["--report_to", "wandbb"], "Did you mean wandb?"),
        (["--weight_decay=-1"], "--weight_decay -1.0: expected 0 or more"),
        (["--optim_args", "clip=2"], "there is no setting clip. It has clip_threshold,"),
        (["--optim_args", "decay_rates=2"], "no setting decay_rates. Did you mean decay_rate?"),
        (["--optim=adamw_torch", "--optim_args=a=1"], "no setting a. It has none of its own"),
        (["--lr_scheduler_kwargs", "min_lr=1e-5"], "no setting min_lr. It has none of its own"),
        (["--lr_scheduler_typ=rsqrt"], "Did you mean lr_scheduler_type?"),
        (["--lr_scheduler_type=rsqr"], "Did you mean rsqrt?"),
        (["--adam_beta1=0.9"], "--adam_beta1 0.9 has no effect on --optim t5_adafactor"),
        (["--predict_with_generate"], "has no effect here: use --eval_with generate"),
        (["--deepspeed", "zero_stage2_config.json"], "With --deepspeed give --optim adamw_torch"),
    )
    def test_a_mistake_gets_one_sentence(self, words, sentence):
        with pytest.raises(UserError) as error:
            parse(*words)
        self.assertIn(sentence, str(error.value))

    @parameterized.parameters(
        (["--mlm_probability", "1.5"], "--mlm_probability 1.5: expected a share between 0 and 1"),
        (["--mean_noise_span_length", "0.5"], "a span has at least 1 token"),
        (["--validation_split_percentage", "80"], "expected 0 to 50 percent"),
        ([], "No text to train on"),
    )
    def test_pre_training_values_are_checked(self, words, sentence):
        source = ["--train_file", "x.txt"] if words else []
        with pytest.raises(UserError) as error:
            parse(*source, *words, classes=PRE_TRAINING)
        self.assertIn(sentence, str(error.value))


class DefaultsTest(absltest.TestCase):
    def test_fine_tuning_alone_is_sst2_with_t5_base(self):
        model, data, args = parse()
        self.assertEqual((data.benchmark, data.dataset_name), ("glue", "sst2"))
        self.assertEqual(model.model_name_or_path, "google/t5-v1_1-base")
        self.assertEqual((model.dropout_rate, args.learning_rate), (0.1, 1e-3))
        self.assertEqual((args.optim, args.lr_scheduler_type), ("t5_adafactor", "constant"))
        self.assertEqual(args.report_to, [])

    def test_pre_training_has_no_dropout(self):
        model, data, args = parse("--train_file=x.txt", classes=PRE_TRAINING)
        self.assertEqual((args.optim, args.learning_rate, args.warmup_steps), ("muon", 0.01, 0.1))
        self.assertEqual(model.dropout_rate, 0.0)
        self.assertEqual((data.mlm_probability, data.mean_noise_span_length), (0.15, 3.0))

    def test_a_shape_known_by_name_implies_random_weights(self):
        model, _, _ = parse("--config_name=t5-v1_1-small")
        self.assertEqual(model.settings()["shape"], "t5-v1_1-small")
        self.assertIsNone(parse()[0].settings()["shape"])
        model = parse("--config_name=folder", "--initialize_from_scratch")[0]
        self.assertEqual(model.settings()["shape"], "folder")


@pytest.mark.parametrize("classes", [PRE_TRAINING, FINE_TUNING])
def test_help_shows_every_flag_with_a_text(classes, capsys):
    with pytest.raises(SystemExit) as stopped:
        parse("--help", classes=classes)
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    assert "--output_dir" in shown and "t5_adafactor, adamw_rms, muon" in shown


def test_trials_of_a_sweep_do_not_share_a_folder(monkeypatch):
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep")
    monkeypatch.setenv("WANDB_RUN_ID", "trial")
    assert parse("--output_dir", "out")[2].output_dir == "out/trial"
    for name in ("../../elsewhere", "/elsewhere", ".."):
        monkeypatch.setenv("WANDB_RUN_ID", name)
        folder = parse("--output_dir", "out")[2].output_dir
        assert os.path.dirname(os.path.normpath(folder)) == "out", folder


def write_recipe(folder, **settings):
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(settings))
    return str(path)


@pytest.mark.parametrize(
    "spelling", [["{}"], ["--config", "{}"], ["--config={}"], ["--local_rank=1", "{}"]]
)
def test_flags_override_a_recipe(tmp_path, spelling):
    recipe = write_recipe(tmp_path, dataset_name="cola", learning_rate="3e-4", patience=None)
    words = [word.format(recipe) for word in spelling]
    _, data, args = parse(*words, "--learning_rate", "5e-4")
    assert (data.dataset_name, args.learning_rate, data.patience) == ("cola", 5e-4, None)


def test_an_unknown_key_names_the_nearest(tmp_path):
    recipe = write_recipe(tmp_path, dataset_nam="cola")
    with pytest.raises(UserError, match="unknown key 'dataset_nam'. Did you mean dataset_name?"):
        parse(recipe)


@pytest.mark.parametrize("text", ["a: [", "- a\n- b\n"])
def test_a_recipe_that_is_no_recipe(tmp_path, text):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match="bad.yaml"):
        parse(str(path))


def test_run_yaml_repeats_the_run_and_keeps_no_secret(tmp_path):
    words = ["--dataset_name", "mrpc", "--save_total_limit", "None", "--hub_token", "hf_secret"]
    words += ["--lr_scheduler_type", "cosine_with_min_lr", "--optim_args", "decay_rate=0.7"]
    first = parse(*words, "--lr_scheduler_kwargs", '{"min_lr": 1}')
    write_run_yaml(tmp_path, first[2].given)
    text = (tmp_path / "run.yaml").read_text()
    assert "hf_secret" not in text
    again = parse(str(tmp_path / "run.yaml"))
    assert again[2].given == first[2].given
    assert again[2].save_total_limit is None
    assert again[2].lr_scheduler_kwargs == {"min_lr": 1}
    assert again[2].own_optimizer_settings == {"decay_rate": 0.7}
    assert yaml.safe_load(text)["learning_rate"] == 1e-3  # the preset's, written out


def test_an_output_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="--output_dir .*file/out cannot be written"):
        make_output_dir(str(tmp_path / "file" / "out"))


# ---- amounts ------------------------------------------------------------------------------------


def pre_training(*words: str):
    return parse_flags(PRE_TRAINING, ["--train_file", "some.txt", *words])[2]


def test_lengths_and_intervals_in_tokens():
    args = pre_training(
        *("--global_batch_size", "64k_tokens", "--max_steps", "6553600_tokens"),
        *("--eval_steps", "0.1", "--save_steps", "655360_tokens", "--warmup_steps", "1280examples"),
    )
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps) == (16, 8)
    assert (args.max_steps, args.save_steps, args.warmup_steps) == (100, 10, 10)
    assert args.eval_steps == 0.1
    assert args.given["max_steps"] == "6553600_tokens"


def test_the_global_batch_stays_the_same_on_eight_processes(monkeypatch):
    monkeypatch.setattr(training_arguments_t5, "_num_processes", lambda: 8)
    args = pre_training("--global_batch_size", "64k_tokens", "--max_steps", "12800examples")
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps) == (16, 1)
    assert args.max_steps == 100


@pytest.mark.parametrize("name", ["bf16", "use_cpu", "do_eval", "load_best_model_at_end"])
def test_every_switch_has_a_no(name):
    args = pre_training(f"--no_{name}")
    assert getattr(args, name) is False and args.given[name] is False


def test_a_cuda_build_without_a_gpu_takes_the_settings_of_a_cpu(monkeypatch):
    def built_for_cuda(check_available=False):
        return None if check_available else torch.device("cuda")

    monkeypatch.setattr(torch.accelerator, "current_accelerator", built_for_cuda)
    assert pre_training().use_cpu is True


def test_the_word_of_older_launchers_stands_before_a_recipe(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("seed: 7\n")
    for word in ("--local_rank=0", "--local-rank=0"):
        _, _, args = parse_flags(PRE_TRAINING, [word, str(recipe), "--train_file", "a"])
        assert args.seed == 7


@pytest.mark.parametrize(
    ("given", "trackers"),
    [("tensorboard,wandb", ["tensorboard", "wandb"]), (" wandb", ["wandb"]), ("none", [])],
)
def test_several_trackers_in_one_word(given, trackers):
    args = pre_training("--report_to", given)
    assert args.report_to == trackers and args.given["report_to"] == given


def test_epochs_wait_for_the_data():
    args = pre_training(
        *("--max_steps", "5_epochs", "--eval_steps", "0.5_epochs", "--save_steps", "30"),
        *("--load_best_model_at_end", "--logging_steps", "2_epochs"),
    )
    assert (args.max_steps, args.num_train_epochs) == (-1, 5)
    args.fit_to_data(num_train_examples=16 * 50)
    assert (args.eval_steps, args.save_steps, args.logging_steps) == (25, 25, 100)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--max_steps", "0"], "--max_steps 0: expected steps"),
        (["--max_steps", "0.5"], "--max_steps 0.5: expected steps"),
        (["--max_steps", "-5"], "--max_steps -5: expected"),
        (["--eval_steps", "soon"], "--eval_steps soon: expected a number"),
        (["--global_batch_size", "5_epochs"], "--global_batch_size 5_epochs: expected a number"),
        (["--global_batch_size", "8", "--gradient_accumulation_steps", "2"], "both say how much"),
        (["--fp16"], "T5 was trained in bfloat16"),
        (["--z_loss", "-1"], "--z_loss -1"),
    ],
)
def test_amounts_and_precisions_that_are_refused(words, sentence):
    with pytest.raises(UserError, match=sentence):
        pre_training(*words)


def test_tokens_say_nothing_about_tasks():
    with pytest.raises(UserError, match="--max_steps in tokens: the examples of a task differ"):
        parse_flags(FINE_TUNING, ["--max_steps", "1M_tokens"])


def test_every_attention_that_is_registered_can_be_asked_for():
    choices = arguments_t5.ModelArguments.__dataclass_fields__["attn_implementation"].metadata
    assert set(choices["choices"]) == {"auto", "eager", *attention_t5.OWN}


def test_epochs_that_would_be_ignored_are_refused_with_the_flag_that_counts():
    with pytest.raises(UserError, match="--max_steps 5_epochs instead"):
        parse_flags(PRE_TRAINING, ["--train_file", "some.txt", "--num_train_epochs", "5"])
    words = ["--train_file", "some.txt", "--num_train_epochs", "5", "--max_steps", "-1"]
    assert parse_flags(PRE_TRAINING, words)[2].num_train_epochs == 5
