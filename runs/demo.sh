#!/usr/bin/env bash
# From raw text to a scored T5 on a laptop: tokenizer, pre-training, fine-tuning, control, table.
# `make demo` runs it inside .venv; everything it writes lies under demo/.
set -euo pipefail
cd "$(dirname "$0")/.."
rm -rf demo
started=$SECONDS

step() { printf '\n\033[1m%s\033[0m\n' "$1" | if [ -t 1 ]; then cat; else sed 's/\x1b\[[0-9]*m//g'; fi; }

step "1/5  Corpus: the documentation of Python and of the installed packages"
python installed_docs.py --output_dir demo/data

step "2/5  Tokenizer: SentencePiece with 100 sentinels"
python train_tokenizer_t5.py --dataset_paths installed_docs --max_sample_megabytes 4 \
  --vocab_size 1024 --output_dir demo/tokenizer

step "3/5  Pre-training: fill in hidden spans of raw text"
python pre_train_t5.py recipes/demo_pre_train.yaml

step "4/5  Fine-tuning: are these words in their order, or shuffled?"
python fine_tune_t5.py recipes/demo_fine_tune.yaml

step "5/5  Control: the same fine-tuning from random weights"
python fine_tune_t5.py recipes/demo_fine_tune.yaml --initialize_from_scratch \
  --config_name demo/pre_train --output_dir demo/from_scratch

step "Pre-trained against from scratch, same task, same budget ($((SECONDS - started)) s in all)"
python report.py demo/fine_tuned demo/from_scratch --output demo/report.html
cat <<'END'

demo/data          the task: word_order.{train,validation,test}.jsonl
demo/tokenizer     the tokenizer
demo/pre_train     the pre-trained model, its card (README.md) and curves
demo/fine_tuned    the fine-tuned model, predictions/, all_results.json, run.yaml
demo/from_scratch  the control
demo/report.html   both runs: curves, scores, settings
END
