"""Tables: every task as one entry of the same shape, and the shapes of the published models.

An entry of `DATASET_VALS[benchmark][task]` has these keys, and a task of your own has the same:

prefix              text before a column; a list where there are several columns
text_column_name    the column(s) to read, as many as prefixes; `translation.en` and `sentences.0`
                    reach into nested columns
label_column_name   the column that holds the label, the number or the text to write
labels              {0: 'word', 1: 'word'}: the word to write for each label; None for free text
metric_to_optimize  the metric that chooses the best checkpoint
metric_names        every metric to compute, names of `metrics.METRICS`

and may have these:

hub_path, hub_name  where the data set is on the Hub; default: the benchmark's place, the task
splits              {'train': …, 'validation': …, 'test': …}: the source's own split, or a list of
                    them, for each role; default: the roles' names. A role left out does not exist
num_train_examples  T5's constant mixing weight; 0 = no share in a mixture; default: rows loaded
input, target, answer, reference
                    names of functions in `tasks.FORMATS`, for formats that columns and words
                    cannot express
"""

IGNORE_ID = -100  # torch's cross entropy skips this id

HUB_PATHS = {"glue": "nyu-mll/glue"}

# Texts, label order and weights are those of T5's registry (t5/data/glue_utils.py and
# preprocessors.glue: columns in alphabetical order, so MNLI's hypothesis comes first).
DATASET_VALS = {
    "glue": {
        "cola": {
            "prefix": "cola sentence:",
            "text_column_name": "sentence",
            "label_column_name": "label",
            "labels": {0: "unacceptable", 1: "acceptable"},
            "metric_to_optimize": "matthews",
            "metric_names": ["matthews"],
            "num_train_examples": 8551,
        },
        "sst2": {
            "prefix": "sst2 sentence:",
            "text_column_name": "sentence",
            "label_column_name": "label",
            "labels": {0: "negative", 1: "positive"},
            "metric_to_optimize": "accuracy",
            "metric_names": ["accuracy"],
            "num_train_examples": 67349,
        },
        "mrpc": {
            "prefix": ["mrpc sentence1:", "sentence2:"],
            "text_column_name": ["sentence1", "sentence2"],
            "label_column_name": "label",
            "labels": {0: "not_equivalent", 1: "equivalent"},
            "metric_to_optimize": "f1",
            "metric_names": ["f1", "accuracy"],
            "num_train_examples": 3668,
        },
        "qqp": {
            "prefix": ["qqp question1:", "question2:"],
            "text_column_name": ["question1", "question2"],
            "label_column_name": "label",
            "labels": {0: "not_duplicate", 1: "duplicate"},
            "metric_to_optimize": "f1",
            "metric_names": ["f1", "accuracy"],
            "num_train_examples": 363849,
        },
        "stsb": {
            "prefix": ["stsb sentence1:", "sentence2:"],
            "text_column_name": ["sentence1", "sentence2"],
            "label_column_name": "label",
            "labels": None,
            "metric_to_optimize": "spearman",
            "metric_names": ["pearson", "spearman"],
            "num_train_examples": 5749,
            "target": "nearest_fifth",
            "answer": "number",
        },
        "mnli": {
            "prefix": ["mnli hypothesis:", "premise:"],
            "text_column_name": ["hypothesis", "premise"],
            "label_column_name": "label",
            "labels": {0: "entailment", 1: "neutral", 2: "contradiction"},
            "metric_to_optimize": "accuracy",
            "metric_names": ["accuracy"],
            "splits": {
                "train": "train",
                "validation": ["validation_matched", "validation_mismatched"],
                "test": ["test_matched", "test_mismatched"],
            },
            "num_train_examples": 392702,
        },
        "qnli": {
            "prefix": ["qnli question:", "sentence:"],
            "text_column_name": ["question", "sentence"],
            "label_column_name": "label",
            "labels": {0: "entailment", 1: "not_entailment"},
            "metric_to_optimize": "accuracy",
            "metric_names": ["accuracy"],
            "num_train_examples": 104743,
        },
        "rte": {
            "prefix": ["rte sentence1:", "sentence2:"],
            "text_column_name": ["sentence1", "sentence2"],
            "label_column_name": "label",
            "labels": {0: "entailment", 1: "not_entailment"},
            "metric_to_optimize": "accuracy",
            "metric_names": ["accuracy"],
            "num_train_examples": 2490,
        },
        "wnli": {
            "prefix": ["wnli sentence1:", "sentence2:"],
            "text_column_name": ["sentence1", "sentence2"],
            "label_column_name": "label",
            "labels": {0: "not_entailment", 1: "entailment"},
            "metric_to_optimize": "accuracy",
            "metric_names": ["accuracy"],
            "num_train_examples": 0,  # T5 leaves WNLI out of its mixture: it trains on WSC instead
        },
        "ax": {  # the diagnostic set of GLUE, answered by a model of MNLI
            "prefix": ["mnli hypothesis:", "premise:"],
            "text_column_name": ["hypothesis", "premise"],
            "label_column_name": "label",
            "labels": {0: "entailment", 1: "neutral", 2: "contradiction"},
            "metric_to_optimize": "accuracy",
            "metric_names": ["accuracy"],
            "splits": {"test": "test"},
            "num_train_examples": 0,
        },
    },
}


# Fields of T5Config. Parameters with the embedding table of 32,128 rows: 1.0 has 60.5 M, 223 M,
# 738 M, 2.85 B, 11.3 B; 1.1 has 77.0 M, 248 M, 783 M, 2.85 B, 11.1 B.
MODEL_SHAPES = {
    "t5-small": {
        "vocab_size": 32128,
        "d_model": 512,
        "d_kv": 64,
        "d_ff": 2048,
        "num_layers": 6,
        "num_decoder_layers": 6,
        "num_heads": 8,
        "feed_forward_proj": "relu",
        "tie_word_embeddings": True,
    },
    "t5-base": {
        "vocab_size": 32128,
        "d_model": 768,
        "d_kv": 64,
        "d_ff": 3072,
        "num_layers": 12,
        "num_decoder_layers": 12,
        "num_heads": 12,
        "feed_forward_proj": "relu",
        "tie_word_embeddings": True,
    },
    "t5-large": {
        "vocab_size": 32128,
        "d_model": 1024,
        "d_kv": 64,
        "d_ff": 4096,
        "num_layers": 24,
        "num_decoder_layers": 24,
        "num_heads": 16,
        "feed_forward_proj": "relu",
        "tie_word_embeddings": True,
    },
    "t5-3b": {
        "vocab_size": 32128,
        "d_model": 1024,
        "d_kv": 128,
        "d_ff": 16384,
        "num_layers": 24,
        "num_decoder_layers": 24,
        "num_heads": 32,
        "feed_forward_proj": "relu",
        "tie_word_embeddings": True,
    },
    "t5-11b": {
        "vocab_size": 32128,
        "d_model": 1024,
        "d_kv": 128,
        "d_ff": 65536,
        "num_layers": 24,
        "num_decoder_layers": 24,
        "num_heads": 128,
        "feed_forward_proj": "relu",
        "tie_word_embeddings": True,
    },
    "t5-v1_1-small": {
        "vocab_size": 32128,
        "d_model": 512,
        "d_kv": 64,
        "d_ff": 1024,
        "num_layers": 8,
        "num_decoder_layers": 8,
        "num_heads": 6,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
    },
    "t5-v1_1-base": {
        "vocab_size": 32128,
        "d_model": 768,
        "d_kv": 64,
        "d_ff": 2048,
        "num_layers": 12,
        "num_decoder_layers": 12,
        "num_heads": 12,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
    },
    "t5-v1_1-large": {
        "vocab_size": 32128,
        "d_model": 1024,
        "d_kv": 64,
        "d_ff": 2816,
        "num_layers": 24,
        "num_decoder_layers": 24,
        "num_heads": 16,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
    },
    "t5-v1_1-xl": {
        "vocab_size": 32128,
        "d_model": 2048,
        "d_kv": 64,
        "d_ff": 5120,
        "num_layers": 24,
        "num_decoder_layers": 24,
        "num_heads": 32,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
    },
    "t5-v1_1-xxl": {
        "vocab_size": 32128,
        "d_model": 4096,
        "d_kv": 64,
        "d_ff": 10240,
        "num_layers": 24,
        "num_decoder_layers": 24,
        "num_heads": 64,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
    },
}
