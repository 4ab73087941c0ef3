"""The training engine: Seq2SeqTrainer with T5's loss, rank-independent scores and a run's tail.

What is different from the library's trainer, and why, stands at each method; the measurements
behind it are in the tests of the same name.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import gather_object
from torch.utils.data import Dataset, Sampler, SequentialSampler
from transformers import PreTrainedModel
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.modeling_outputs import BaseModelOutput
from transformers.trainer_callback import (
    EarlyStoppingCallback,
    PrinterCallback,
    ProgressCallback,
)
from transformers.trainer_utils import EvalLoopOutput

from answers_t5 import Answer, Answering, answers_of, each_once, mean_scores, rank_words
from checkpoints_t5 import whole_checkpoints
from compiled_blocks_t5 import as_they_are, compile_blocks, pays
from constants import IGNORE_ID
from errors import UserError
from flops_t5 import peak_flops, training_flops
from fsdp_t5 import share_one_embedding
from lora_t5 import merged
from loss_t5 import TokenScores, answering_with, summed_loss, token_scores, with_loss_head
from optimizer_t5 import OPTIMIZERS, SCHEDULES, make_optimizer
from progress_t5 import Meter, RunProgress, peak_memory_gb
from read_ahead_t5 import BatchReader
from resumable_t5 import ResumableTrainer
from whole_files import write_text

logger = logging.getLogger(__name__)

KEYS_PER_CHUNK = 1 << 14


class EpochSampler(Sampler):
    """Keys epoch * num_examples + position, shuffled anew in each epoch by (seed, epoch) alone.

    The order is the same for any number of ranks and workers, and no global generator is touched.
    """

    def __init__(self, num_examples: int, *, seed: int):
        self.num_examples = num_examples
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_examples

    def __iter__(self):
        order = np.random.Generator(np.random.PCG64([self.seed, self.epoch]))
        first = self.epoch * self.num_examples
        # 4 bytes an example; a list of them all would take 36.
        positions = np.arange(self.num_examples, dtype=np.uint32)
        order.shuffle(positions)
        for chunk in range(0, self.num_examples, KEYS_PER_CHUNK):
            part = positions[chunk : chunk + KEYS_PER_CHUNK].astype(np.int64)
            yield from (first + part).tolist()


class Patience(EarlyStoppingCallback):
    """Stops after so many whole evaluations without a better metric for the best model.

    The library tells it of each of several sets by itself and it warns that the mean over them is
    not there; `T5Trainer.evaluate` tells it of all of them together.
    """

    def on_evaluate(self, args, state, control, metrics, **kwargs):
        name = args.metric_for_best_model
        if (name if name.startswith("eval_") else f"eval_{name}") in metrics:
            super().on_evaluate(args, state, control, metrics, **kwargs)


class T5Trainer(ResumableTrainer):
    """`score(dataset, answers)` returns the metrics of an evaluation set beyond loss and accuracy.

    `token_bytes` [vocabulary] adds bits per byte, `objective_names` scores for each objective of a
    mixture, and `sample(model, answers)` is called after each whole evaluation, on all ranks.
    `generation` holds what `generate` is called with; None evaluates by teacher forcing alone. A
    set with an attribute `answering` is answered by that instead. `summarise(metrics, prefix)`
    returns what is said of several sets together; by default the mean of each score over them.
    """

    def __init__(
        self,
        *,
        score: Callable[[Dataset, list[Answer]], dict[str, float]] | None = None,
        generation: dict | None = None,
        token_bytes: Sequence[int] | None = None,
        objective_names: Sequence[str] = (),
        sample: Callable[[PreTrainedModel, dict[str, list[Answer]]], None] | None = None,
        summarise: Callable[[dict[str, float], str], dict[str, float]] | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        with_loss_head(self.model)
        if getattr(self.train_dataset, "is_batched", False):
            self._train_batch_size = 1
        self.score = score
        self.sample = sample
        self.token_bytes = None if token_bytes is None else torch.tensor(token_bytes)
        self.objective_names = objective_names
        self.generation = generation
        self.summarise = summarise
        self.answers: dict[str, list[Answer]] = {}
        self._evaluated: tuple[int | None, dict[str, float]] = (None, {})
        self.meter = Meter(num_ranks=self.args.world_size)
        self.model_accepts_loss_kwargs = True  # count target tokens over the whole optimizer step
        self.loss_is_scaled_for_ga = True  # ... and do not divide by accumulation steps again
        if self.is_fsdp_enabled:
            share_one_embedding(self.model)
        self._reader: BatchReader | None = None
        self._usual_shapes: list[list[int]] | None = None
        self._is_compiled: bool | None = None  # None: not decided yet
        self.remove_callback(ProgressCallback)
        self.remove_callback(PrinterCallback)
        if self.is_world_process_zero():
            self.add_callback(RunProgress(disable_bars=self.args.disable_tqdm))

    # ---- loss ----

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Sum over target tokens / target tokens of the whole optimizer step, all ranks included.

        T5's forward ignores `num_items_in_batch`, so the library's loss depends on how a batch is
        split into accumulation steps and ranks; this one does not. Ranks are averaged by DDP and
        DeepSpeed afterwards, hence the factor.
        """
        labels = inputs["labels"]
        answer = functools.partial(
            summed_loss,
            labels=labels,
            label_smoothing=self.args.label_smoothing_factor if model.training else 0.0,
            z_loss=self.args.z_loss if model.training else 0.0,
        )
        with answering_with(self.model, answer):
            outputs = model(**_forward_inputs(inputs))
        loss, z_loss = outputs.logits
        if num_items_in_batch is None:
            scale = 1 / (labels != IGNORE_ID).sum()
        else:
            scale = self.accelerator.num_processes / num_items_in_batch
        if model.training:
            self.meter.add_z_loss(z_loss * scale)
        loss = loss * scale
        if model.training and self._reader is not None:
            self._reader.start_reading()  # the backward pass comes next
        return (loss, outputs) if return_outputs else loss

    # ---- compiled blocks ----

    def training_step(self, model, inputs, num_items_in_batch=None):
        """The library's; blocks are compiled for the first batch's shapes and for no others.

        A resumed run keeps those that it began with: its own first batch may be the odd one.
        """
        shapes = [list(inputs[name].shape) for name in ("input_ids", "labels")]
        if self._is_compiled is None:
            self._usual_shapes = self._usual_shapes or shapes
            self._is_compiled = self._compiles()
            if self._is_compiled:
                compile_blocks(self.model)
        with self._uncompiled(unless=shapes == self._usual_shapes):
            return super().training_step(model, inputs, num_items_in_batch)

    def _compiles(self) -> bool:
        """What --compile says; auto: where it pays."""
        if self.args.compile != "auto":
            return self.args.compile == "blocks"
        if self.is_deepspeed_enabled or self.is_fsdp_enabled or self.args.stage != "pre_training":
            return False
        (num_examples, input_tokens), (_, target_tokens) = self._usual_shapes
        step_flops = training_flops(
            self.model.config,
            num_examples=num_examples * self.args.gradient_accumulation_steps,
            input_tokens=input_tokens,
            target_tokens=target_tokens,
        )
        is_cuda = self.args.device.type == "cuda"
        return pays(is_cuda=is_cuda, num_steps=self.state.max_steps, step_flops=step_flops)

    def _uncompiled(self, *, unless: bool = False) -> contextlib.AbstractContextManager:
        return as_they_are() if self._is_compiled and not unless else contextlib.nullcontext()

    # ---- batches ----

    def get_train_dataloader(self):
        """The library's; without workers it yields orders, of which batches are taken later."""
        self._stop_reading()
        if self.args.dataloader_num_workers or self.args.accelerator_config.dispatch_batches:
            return super().get_train_dataloader()
        examples, collate = self.train_dataset, self.data_collator
        self._reader = BatchReader(examples, collate=collate, batch_size=self._train_batch_size)
        self.train_dataset, self.data_collator = self._reader.keys, self._reader.order
        try:
            return super().get_train_dataloader()
        finally:
            self.train_dataset, self.data_collator = examples, collate

    def _stop_reading(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def train(self, *args, **kwargs):
        try:
            return super().train(*args, **kwargs)
        finally:
            self._stop_reading()

    # ---- what happened, for the log ----

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """The micro-batches of one optimizer step, timed and counted."""
        self.meter.begin_step()
        if self._reader is not None:
            epoch_iterator = self._reader.batches(
                epoch_iterator, batches_per_step=self.args.gradient_accumulation_steps
            )
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        self.meter.add_batches(batches, config=self.model.config)
        return batches, num_items

    def _maybe_log_save_evaluate(self, *args, **kwargs):
        self.meter.end_step()
        if self.control.should_log or self.control.should_save:
            self.state.num_input_tokens_seen += self.meter.gather(self.accelerator)
        return super()._maybe_log_save_evaluate(*args, **kwargs)

    def _progress(self) -> dict[str, object]:
        own = {"meter": self.meter.state(), "usual_shapes": self._usual_shapes}
        return {**super()._progress(), **own}

    def _restore(self, ranks: list[dict]) -> None:
        super()._restore(ranks)
        shapes = ranks[min(self.args.process_index, len(ranks) - 1)].get("usual_shapes")
        is_batched = getattr(self.train_dataset, "is_batched", False)
        if shapes and (is_batched or shapes[0][0] == self._train_batch_size):  # else another size
            self._usual_shapes = shapes
        self.meter.restore([rank["meter"] for rank in ranks], rank=self.args.process_index)

    def _leave_out_step(self, mean_loss: float) -> None:
        super()._leave_out_step(mean_loss)
        self.meter.leave_out_step()

    def floating_point_ops(self, inputs) -> int:
        """Nothing: the meter counts exactly what the library would estimate."""
        return 0

    def log(self, logs, start_time=None) -> None:
        """Adds tokens, speed, waiting and MFU to a line of training loss; takes the z-loss out."""
        if "loss" in logs:
            measured = self.meter.read(peak_flops=self._peak_flops())
            logs["loss"] -= measured.get("z_loss", 0.0)
            logs |= {"tokens_seen": self.state.num_input_tokens_seen, **measured}
            logs["peak_memory_gb"] = peak_memory_gb(self.args.device)
        super().log(logs, start_time)

    def _peak_flops(self) -> float | None:
        if self.args.device.type != "cuda" or not self.args.bf16:
            return None
        return peak_flops(torch.cuda.get_device_name(self.args.device))

    # ---- data order ----

    def _get_train_sampler(self, train_dataset=None) -> Sampler:
        dataset = train_dataset if train_dataset is not None else self.train_dataset
        if getattr(dataset, "reads_in_order", False):  # a stream shuffles by itself
            return SequentialSampler(dataset)
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return EpochSampler(len(dataset), seed=seed)

    # ---- optimizer and schedule ----

    def create_optimizer(self, model=None):
        """This project's optimizers by name, else the library's."""
        if self.optimizer is None and self.args.optim in OPTIMIZERS:
            trained = self.model if model is None else model
            self.optimizer = make_optimizer(
                self.args.optim,
                trained,
                decayed=set(self.get_decay_parameter_names(trained)),
                settings={
                    "lr": self.args.learning_rate,
                    "weight_decay": self.args.weight_decay,
                    "betas": (self.args.adam_beta1, self.args.adam_beta2),
                    "eps": self.args.adam_epsilon,
                },
                own_settings=self.args.own_optimizer_settings,
            )
        return super().create_optimizer(model)

    def create_scheduler(self, num_training_steps, optimizer=None):
        """This project's schedules by name, else the library's."""
        name, rate = self.args.lr_scheduler_type, self.args.learning_rate
        num_warmup_steps = self.args.get_warmup_steps(num_training_steps)
        if self.lr_scheduler is None and self.is_world_process_zero():
            print(self.args.optimization, flush=True)
            if num_warmup_steps >= num_training_steps > 1 and name != "rsqrt":
                logger.warning(
                    "All %d steps are warm-up (--warmup_steps %g): the learning rate never "
                    "reaches %g.",
                    *(num_training_steps, self.args.warmup_steps, rate),
                )
        if self.lr_scheduler is None and name in SCHEDULES:
            self.lr_scheduler = SCHEDULES[name](
                optimizer or self.optimizer,
                num_warmup_steps=num_warmup_steps,
                num_training_steps=num_training_steps,
                **self.args.lr_scheduler_kwargs,
            )
            self._created_lr_scheduler = True
        return super().create_scheduler(num_training_steps, optimizer)

    def _show_weights_to_keep(self) -> None:
        """Schedule-free optimizers train one set of weights; another is evaluated and saved."""
        if hasattr(self.optimizer, "eval"):
            self.optimizer.eval()

    def save_model(self, *args, **kwargs):
        self._show_weights_to_keep()
        super().save_model(*args, **kwargs)

    # ---- evaluation ----

    def evaluation_loop(
        self,
        dataloader,
        description,
        prediction_loss_only=None,
        ignore_keys=None,
        metric_key_prefix="eval",
    ) -> EvalLoopOutput:
        """Loss per target token, token accuracy and `score`, the same for any number of ranks.

        The library gathers the rows that fill up a last uneven batch as well, and averages batch
        means. Here every answer carries its example number: repeated ones are dropped, the rest is
        put in order and summed.
        """
        answers = self._answer(dataloader)
        self.answers[metric_key_prefix] = answers
        metrics = {}
        if not getattr(dataloader.dataset, "has_hidden_labels", False):
            metrics = mean_scores(answers, objective_names=self.objective_names)
            if self.score is not None:
                metrics |= self.score(dataloader.dataset, answers)
        return EvalLoopOutput(
            predictions=answers,
            label_ids=None,
            metrics={f"{metric_key_prefix}_{name}": value for name, value in metrics.items()},
            num_samples=len(answers),
        )

    def _answer(self, dataloader) -> list[Answer]:
        """The answers of all ranks in the order of the data set, each example once."""
        self.callback_handler.eval_dataloader = dataloader
        answering = getattr(dataloader.dataset, "answering", None) or Answering(self.generation)
        answers: list[Answer] = []
        for of_batch in self.answer_batches(dataloader, answering=answering):
            answers += of_batch
            self.control = self.callback_handler.on_prediction_step(
                self.args, self.state, self.control
            )
        return each_once(gather_object(answers))

    @torch.no_grad()
    def answer_batches(
        self, batches: Iterable[dict[str, torch.Tensor]], *, answering: Answering
    ) -> Iterator[list[Answer]]:
        """What the model makes of each batch; this rank's answers only."""
        model = self._evaluation_model()
        model.eval()
        self._show_weights_to_keep()
        for batch in batches:
            with self._uncompiled():
                answers = self._answer_batch(model, self._prepare_inputs(batch), answering)
            yield answers

    def _evaluation_model(self):
        """The model as the library's own evaluation loop prepares it, before or after training."""
        if self.is_deepspeed_enabled and self.deepspeed is None:
            from transformers.integrations.deepspeed import deepspeed_init

            deepspeed_init(self, num_training_steps=0, inference=True)
        model = self._wrap_model(self.model, training=False)
        if len(self.accelerator._models) == 0 and model is self.model:
            if self.is_deepspeed_enabled or self.is_fsdp_enabled:
                model = self.accelerator.prepare(model)
            else:
                model = self.accelerator.prepare_model(model, evaluation_mode=True)
            if self.is_deepspeed_enabled:
                self.deepspeed = self.model_wrapped = model
        return model

    def _answer_batch(
        self, model, batch: dict[str, torch.Tensor], answering: Answering
    ) -> list[Answer]:
        with self.compute_loss_context_manager():
            if answering.words is not None:
                return rank_words(model, batch, words=answering.words)
            answer = functools.partial(token_scores, labels=batch["labels"])
            with answering_with(self.model, answer):
                outputs = model(**_forward_inputs(batch))
        texts: Sequence[str | None] = [None] * len(batch["labels"])
        if answering.generation is not None:
            states = BaseModelOutput(last_hidden_state=outputs.encoder_last_hidden_state)
            texts = self._generate(batch, answering.generation, encoder_outputs=states)
        scores = TokenScores(*outputs.logits)
        return answers_of(scores, batch, texts=texts, token_bytes=self.token_bytes)

    def _generate(self, batch: dict[str, torch.Tensor], settings: dict, **states) -> list[str]:
        """Decoded text of each row. Ranks that share a model generate in step, or would hang."""
        ids = self.model.generate(
            input_ids=batch["input_ids"],
            attention_mask=batch.get("attention_mask"),
            synced_gpus=is_deepspeed_zero3_enabled() or self.is_fsdp_enabled,
            **states,
            **settings,
        )
        return self.processing_class.batch_decode(ids, skip_special_tokens=True)

    def _get_eval_sampler(self, eval_dataset: Dataset):
        """Longest first, so that a batch holds one length and too little memory shows at once."""
        if not hasattr(eval_dataset, "lengths"):
            return super()._get_eval_sampler(eval_dataset)
        return np.argsort(-eval_dataset.lengths(0)[:, 0], kind="stable").tolist()

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval", **kwargs):
        """The metrics of one evaluation set, or of several and what is said of them together.

        That is what selects the best model, so MNLI has one `eval_accuracy` too; the loss is per
        target token over all sets.
        """
        metrics = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix, **kwargs)
        sets = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(sets, dict):
            prefixes = [f"{metric_key_prefix}_{name}_" for name in sets]
            summarise = self.summarise or functools.partial(_mean_over_sets, names=list(sets))
            means = summarise(metrics, metric_key_prefix)
            answers = [answer for p in prefixes for answer in self.answers[p[:-1]]]
            means[f"{metric_key_prefix}_loss"] = mean_scores(answers)["loss"]
            self.log(means)
            metrics |= means
            # The library has told its callbacks of each set alone; this is the whole evaluation.
            self.control = self.callback_handler.on_evaluate(
                self.args, self.state, self.control, metrics
            )
        if self.sample is not None and eval_dataset is None:  # not of each of several sets
            with self._uncompiled():
                self.sample(self.model, self.answers)
        self._evaluated = (self.state.global_step, metrics)
        return metrics

    def _newest_evaluation(self) -> dict[str, float]:
        """The metrics of the model as it is now, which a last step may have been scored with."""
        step, metrics = self._evaluated
        if self.args.load_best_model_at_end and self.state.best_global_step != step:
            return self.evaluate()
        if step != self.state.global_step:
            log = list(self.state.log_history)
            metrics = self.evaluate()
            if any(e["step"] == self.state.global_step and "eval_loss" in e for e in log):
                self.state.log_history = log  # resumed at its end: the same scores stand there
        return metrics

    # ---- a whole run ----

    def run(
        self,
        *,
        test_sets: dict[str, Dataset] | None = None,
        evaluate_all_checkpoints: bool = False,
        merge_adapters: bool = False,
    ) -> dict[str, float]:
        """Trains, evaluates, scores `test_sets` ({prefix: data}), saves; returns all metrics.

        Leaves a folder that `from_pretrained` loads, run.yaml, all_results.json, and
        log_history.json with every logged line. The answers behind the last scores stay in
        `self.answers`. With `evaluate_all_checkpoints` the best of those kept is evaluated, scored
        and saved, and all_checkpoints.json holds the metrics of each; with `merge_adapters` a whole
        model is saved where only adapters were trained.
        """
        if self.args.replay:
            return self.replay(Path(self.args.replay))
        with self.one_run() as checkpoint:
            return self._train_and_score(
                checkpoint,
                test_sets=test_sets or {},
                evaluate_all_checkpoints=evaluate_all_checkpoints,
                merge_adapters=merge_adapters,
            )

    def _train_and_score(
        self,
        checkpoint: Path | None,
        *,
        test_sets: dict[str, Dataset],
        evaluate_all_checkpoints: bool,
        merge_adapters: bool,
    ) -> dict[str, float]:
        metrics: dict[str, float] = {}
        if self.args.do_train:
            start = time.perf_counter()
            result = self.train(resume_from_checkpoint=checkpoint and str(checkpoint))
            self._show_weights_to_keep()  # before those of another checkpoint take their place
            metrics["train_loss"] = result.training_loss
            metrics["train_seconds"] = round(time.perf_counter() - start, 1)
            metrics["train_steps"] = self.state.global_step
            if self.args.skip_loss_spikes is not None:
                metrics["train_skipped_steps"] = self.loss_watch.num_skipped
        if evaluate_all_checkpoints:
            self._take_best_checkpoint()
        if self.args.do_eval and self.eval_dataset:
            metrics |= self._newest_evaluation()
        for prefix, dataset in test_sets.items():
            metrics |= self.predict(dataset, metric_key_prefix=prefix).metrics
        if test_sets and self.summarise is not None:
            metrics |= self.summarise(metrics, "test")
        if merge_adapters:
            self.model = merged(self.model)
        if self.args.do_train or evaluate_all_checkpoints:
            self.save_model()
        if self.is_world_process_zero():
            folder = Path(self.args.output_dir)
            _write_json(folder / "all_results.json", metrics)
            _write_json(folder / "log_history.json", self.state.log_history)
        return metrics

    def _take_best_checkpoint(self) -> None:
        """Loads the checkpoint of the output folder that the metric for the best model chooses."""
        folder = Path(self.args.output_dir)
        checkpoints = whole_checkpoints(folder)
        if not checkpoints:
            raise UserError(
                f"--evaluate_all_checkpoints: --output_dir {folder} holds no complete checkpoint. "
                "Train with --save_strategy epoch, or give the folder of a run that has some."
            )
        if self.is_deepspeed_enabled:
            raise UserError(
                "--evaluate_all_checkpoints does not read DeepSpeed's checkpoints: leave out "
                "--deepspeed --do_train False and give the trained folder."
            )
        scores = []
        for checkpoint in checkpoints:
            self._load_from_checkpoint(str(checkpoint), self.model)
            scores.append({"checkpoint": checkpoint.name, **self.evaluate()})
        name = self.args.metric_for_best_model
        name = name if name.startswith("eval_") else f"eval_{name}"
        best = (max if self.args.greater_is_better else min)(scores, key=lambda row: row[name])
        self._load_from_checkpoint(str(folder / best["checkpoint"]), self.model)
        if self.is_world_process_zero():
            _write_json(folder / "all_checkpoints.json", scores)
            for row in scores:
                mark = "  <- best" if row is best else ""
                print(f"{row['checkpoint']:<20} {name} {row[name]:.3f}{mark}", flush=True)


NOT_FOR_FORWARD = ("labels", "example_index", "objective_index")


def _forward_inputs(batch: dict) -> dict:
    """What T5's forward takes: no labels, so that it computes no loss of its own."""
    return {k: v for k, v in batch.items() if k not in NOT_FOR_FORWARD}


def _mean_over_sets(
    metrics: dict[str, float], prefix: str, *, names: list[str]
) -> dict[str, float]:
    """The mean of each score that all sets have."""
    prefixes = [f"{prefix}_{name}_" for name in names]
    scores = [k.removeprefix(prefixes[0]) for k in metrics if k.startswith(prefixes[0])]
    return {
        f"{prefix}_{score}": float(np.mean([metrics[p + score] for p in prefixes]))
        for score in scores
        if all(p + score in metrics for p in prefixes)
    }


def _write_json(path: Path, values: dict | list) -> None:
    write_text(path, json.dumps(values, indent=2, sort_keys=True) + "\n")
