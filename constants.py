"""Tables: every task as one entry of the same shape, and the shapes of the published models.

An entry of `DATASET_VALS[benchmark][task]` has these keys, and a task of your own has the same:

prefix              text before a column; a list where there are several columns
text_column_name    the column(s) to read, as many as prefixes; `translation.en` and `sentences.0`
                    reach into nested columns
label_column_name   the column that holds the label, the number, the text to write, or a list of
                    texts that are all right
labels              {0: 'word', 1: 'word'}: the word to write for each label; None for free text
metric_to_optimize  the metric that chooses the best checkpoint
metric_names        every metric to compute, names of `metrics.METRICS`

and may have these:

hub_path, hub_name  where the data set is on the Hub; default: the benchmark's place, the task
file_name           what the task's files in --data_dir are called; default: the task
splits              {'train': …, 'validation': …, 'test': …}: the source's own split, or a list of
                    them, for each role; default: the roles' names. A role left out does not exist
num_train_examples  T5's constant mixing weight; 0 = no share in a mixture, evaluated only;
                    default: rows loaded
group_column_name   the column(s) whose value rows of one question share, for metrics of questions
rows                a name of `tasks.FORMATS['rows']`, or {'train': name, …} for some roles: turns
                    one row of the source into none, one or several examples
input, target, answer, reference
                    names of functions in `tasks.FORMATS`, for formats that columns and words
                    cannot express

A name with {source} and {target} is a family: any name of that form is a task of it, and the
entry's texts get the languages' codes and English names.
"""

IGNORE_ID = -100  # torch's cross entropy skips this id

HUB_PATHS = {
    "glue": "nyu-mll/glue",
    "super_glue": "aps/super_glue",
    "discoeval": "OfekGlick/DiscoEval",
    "spelling": None,
}

# ---- entries that share ------------------------------------------------------------------------

BY_ACCURACY = {
    "label_column_name": "label",
    "metric_to_optimize": "accuracy",
    "metric_names": ["accuracy"],
}
ENTAILMENT = {**BY_ACCURACY, "labels": {0: "entailment", 1: "not_entailment"}}
TRUTH = {**BY_ACCURACY, "labels": {0: "False", 1: "True"}}
NO_OR_YES_WITH_F1 = {"metric_to_optimize": "f1", "metric_names": ["f1", "accuracy"]}
TEST_ONLY = {"splits": {"test": "test"}, "num_train_examples": 0}

# ---- GLUE --------------------------------------------------------------------------------------
# Texts, label order and weights are those of T5's registry (t5/data/glue_utils.py and
# preprocessors.glue: columns in alphabetical order, so MNLI's hypothesis comes first).

MNLI = {
    **BY_ACCURACY,
    "prefix": ["mnli hypothesis:", "premise:"],
    "text_column_name": ["hypothesis", "premise"],
    "labels": {0: "entailment", 1: "neutral", 2: "contradiction"},
}

GLUE = {
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
        **BY_ACCURACY,
        "prefix": "sst2 sentence:",
        "text_column_name": "sentence",
        "labels": {0: "negative", 1: "positive"},
        "num_train_examples": 67349,
    },
    "mrpc": {
        **NO_OR_YES_WITH_F1,
        "prefix": ["mrpc sentence1:", "sentence2:"],
        "text_column_name": ["sentence1", "sentence2"],
        "label_column_name": "label",
        "labels": {0: "not_equivalent", 1: "equivalent"},
        "num_train_examples": 3668,
    },
    "qqp": {
        **NO_OR_YES_WITH_F1,
        "prefix": ["qqp question1:", "question2:"],
        "text_column_name": ["question1", "question2"],
        "label_column_name": "label",
        "labels": {0: "not_duplicate", 1: "duplicate"},
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
        **MNLI,
        "splits": {
            "train": "train",
            "validation": ["validation_matched", "validation_mismatched"],
            "test": ["test_matched", "test_mismatched"],
        },
        "num_train_examples": 392702,
    },
    "qnli": {
        **ENTAILMENT,
        "prefix": ["qnli question:", "sentence:"],
        "text_column_name": ["question", "sentence"],
        "num_train_examples": 104743,
    },
    "rte": {
        **ENTAILMENT,
        "prefix": ["rte sentence1:", "sentence2:"],
        "text_column_name": ["sentence1", "sentence2"],
        "num_train_examples": 2490,
    },
    "wnli": {
        **BY_ACCURACY,
        "prefix": ["wnli sentence1:", "sentence2:"],
        "text_column_name": ["sentence1", "sentence2"],
        "labels": {0: "not_entailment", 1: "entailment"},
        "num_train_examples": 0,  # T5 leaves WNLI out of its mixture: it trains on WSC instead
    },
    "wnli_simple": {  # WNLI as WSC, for a model that was trained on WSC and DPR
        **BY_ACCURACY,
        "prefix": ["wsc:", ""],
        "text_column_name": ["sentence1", "sentence2"],
        "labels": None,
        "hub_name": "wnli",
        "file_name": "wnli",
        "splits": {"validation": "validation", "test": "test"},
        "num_train_examples": 0,
        "input": "wnli_pronoun",
        "target": "wnli_referent",
        "answer": "referent",
        "reference": "label",
    },
    "ax": {  # the diagnostic set of GLUE, answered by a model of MNLI
        **MNLI,
        **TEST_ONLY,
        "metric_to_optimize": "matthews",
        "metric_names": ["matthews", "accuracy"],
    },
}

# ---- SuperGLUE ---------------------------------------------------------------------------------
# As above; the order of CB's labels is not MNLI's, and RTE's columns are not GLUE's.

SUPER_GLUE = {
    "boolq": {
        **TRUTH,
        "prefix": ["boolq passage:", "question:"],
        "text_column_name": ["passage", "question"],
        "num_train_examples": 9427,
    },
    "cb": {
        "prefix": ["cb hypothesis:", "premise:"],
        "text_column_name": ["hypothesis", "premise"],
        "label_column_name": "label",
        "labels": {0: "entailment", 1: "contradiction", 2: "neutral"},
        "metric_to_optimize": "f1_macro",
        "metric_names": ["f1_macro", "accuracy"],
        "num_train_examples": 250,
    },
    "copa": {
        **BY_ACCURACY,
        "prefix": ["copa choice1:", "choice2:", "premise:", "question:"],
        "text_column_name": ["choice1", "choice2", "premise", "question"],
        "labels": {0: "choice1", 1: "choice2"},
        "num_train_examples": 400,
    },
    "multirc": {
        **TRUTH,
        "prefix": ["multirc question:", "answer:", "paragraph:"],
        "text_column_name": ["question", "answer", "paragraph"],
        "metric_to_optimize": "f1",
        "metric_names": ["f1", "group_exact_match"],
        "num_train_examples": 27243,
        "group_column_name": "idx.question",
        "input": "without_markup",
    },
    "record": {
        "prefix": ["record query:", "entities:", "passage:"],
        "text_column_name": ["query", "entities", "passage"],
        "label_column_name": "answers",
        "labels": None,
        "metric_to_optimize": "squad_f1",
        "metric_names": ["squad_f1", "squad_em"],
        "num_train_examples": 138854,
        "group_column_name": ["idx.passage", "idx.query"],
        "rows": {"train": "one_per_answer"},
        "input": "query_and_entities",
        "target": "first_sorted",
        "answer": "texts",
        "reference": "label",
    },
    "rte": {
        **ENTAILMENT,
        "prefix": ["rte hypothesis:", "premise:"],
        "text_column_name": ["hypothesis", "premise"],
        "num_train_examples": 2490,
    },
    "wic": {
        **TRUTH,
        "prefix": ["wic sentence1:", "sentence2:", "word:"],
        "text_column_name": ["sentence1", "sentence2", "word"],
        "num_train_examples": 5428,
    },
    "wsc": {  # trained on the examples that are true: the pronoun's referent is what is written
        **BY_ACCURACY,
        "prefix": "wsc:",
        "text_column_name": "text",
        "labels": None,
        "hub_name": "wsc.fixed",
        "num_train_examples": 259,
        "rows": {"train": "true_only"},
        "input": "wsc_pronoun",
        "target": "wsc_referent",
        "answer": "referent",
        "reference": "label",
    },
    "dpr": {  # more training data for WSC; the source has no validation split, its test is labelled
        **BY_ACCURACY,
        "prefix": "wsc:",
        "text_column_name": "sentence",
        "labels": None,
        "hub_path": "community-datasets/definite_pronoun_resolution",
        "hub_name": None,
        "splits": {"train": "train", "validation": "test"},
        "num_train_examples": 1322,
        "input": "dpr_pronoun",
        "target": "dpr_referent",
    },
    "axb": {
        **ENTAILMENT,
        **TEST_ONLY,
        "prefix": ["rte hypothesis:", "premise:"],
        "text_column_name": ["sentence2", "sentence1"],
        "metric_to_optimize": "matthews",
        "metric_names": ["matthews", "accuracy"],
    },
    "axg": {
        **ENTAILMENT,
        **TEST_ONLY,
        "prefix": ["rte hypothesis:", "premise:"],
        "text_column_name": ["hypothesis", "premise"],
    },
}

# ---- question answering ------------------------------------------------------------------------

SQUAD = {
    "label_column_name": "answers.text",
    "labels": None,
    "metric_to_optimize": "squad_f1",
    "metric_names": ["squad_f1", "squad_em"],
    "hub_path": "rajpurkar/squad",
    "hub_name": None,
    "file_name": "squad",
    "splits": {"train": "train", "validation": "validation"},
    "input": "padded_punctuation",
    "target": "first_padded",
    "answer": "texts",
    "reference": "padded_texts",
}

QA = {
    "squad": {
        **SQUAD,
        "prefix": ["question:", "context:"],
        "text_column_name": ["question", "context"],
    },
    "squad_context_free": {
        **SQUAD,
        "prefix": "squad trivia question:",
        "text_column_name": "question",
    },
    "trivia_qa": {
        "prefix": ["question:", "context:"],
        "text_column_name": ["question", "context"],
        "label_column_name": "answer.normalized_aliases",
        "labels": None,
        "metric_to_optimize": "trivia_qa_f1",
        "metric_names": ["trivia_qa_f1", "trivia_qa_em"],
        "hub_path": "mandarjoshi/trivia_qa",
        "hub_name": "rc",
        "rows": {
            "train": "answers_in_contexts",
            "validation": "first_context",
            "test": "first_context",
        },
        "input": "padded_punctuation",
        "target": "first_padded",
        "answer": "texts",
        "reference": "padded_texts",
    },
}

# ---- summarization -----------------------------------------------------------------------------

SUMMARIES = {
    "prefix": "summarize:",
    "label_column_name": "summary",
    "labels": None,
    "metric_to_optimize": "rouge2",
    "metric_names": ["rouge1", "rouge2", "rougeL", "rougeLsum"],
    "hub_name": None,
}

SUMMARIZATION = {
    "cnn_dailymail": {
        **SUMMARIES,
        "text_column_name": "article",
        "label_column_name": "highlights",
        "hub_path": "abisee/cnn_dailymail",
        "hub_name": "3.0.0",
    },
    "xsum": {**SUMMARIES, "text_column_name": "document", "hub_path": "EdinburghNLP/xsum"},
    "dialogsum": {
        **SUMMARIES,
        "text_column_name": "dialogue",
        "hub_path": "knkarthick/dialogsum",
    },
}

# ---- translation -------------------------------------------------------------------------------
# T5's pairs by name, and the family of all others: {collection}_{source}_{target} is on the Hub as
# wmt/{collection}, or in your own files. Columns are those of the Hub: {'translation': {'en': …}}.

BY_BLEU = {"labels": None, "metric_to_optimize": "bleu", "metric_names": ["bleu", "chrf"]}
TO_GERMAN = {
    **BY_BLEU,
    "prefix": "translate English to German:",
    "text_column_name": "translation.en",
    "label_column_name": "translation.de",
    "hub_name": "de-en",
}
TO_FRENCH = {
    **BY_BLEU,
    "prefix": "translate English to French:",
    "text_column_name": "translation.en",
    "label_column_name": "translation.fr",
    "hub_name": "fr-en",
}

TRANSLATION = {
    "wmt_t2t_en_de": {**TO_GERMAN, "hub_path": "wmt/wmt_t2t"},
    "wmt14_en_de": {**TO_GERMAN, "hub_path": "wmt/wmt14"},
    "wmt14_en_fr": {**TO_FRENCH, "hub_path": "wmt/wmt14"},
    "wmt15_en_fr": {**TO_FRENCH, "hub_path": "wmt/wmt15"},
    "wmt16_en_ro": {
        **BY_BLEU,
        "prefix": "translate English to Romanian:",
        "text_column_name": "translation.en",
        "label_column_name": "translation.ro",
        "hub_path": "wmt/wmt16",
        "hub_name": "ro-en",
    },
    "wmt19_en_de": {
        **TO_GERMAN,
        "hub_path": "wmt/wmt19",
        "splits": {"train": "train", "validation": "validation"},
    },
    "multi30k_en_de": {**TO_GERMAN, "hub_path": None},
    "{collection}_{source}_{target}": {
        **BY_BLEU,
        "prefix": "translate {source_language} to {target_language}:",
        "text_column_name": "translation.{source}",
        "label_column_name": "translation.{target}",
        "hub_path": "wmt/{collection}",
        "hub_name": "{foreign}-en",
    },
}

# ISO 639-1 codes and the English names that T5 takes from Babel (t5/data/preprocessors.py,
# translate).
LANGUAGES = {
    **{"af": "Afrikaans", "am": "Amharic", "ar": "Arabic", "as": "Assamese", "az": "Azerbaijani"},
    **{"be": "Belarusian", "bg": "Bulgarian", "bn": "Bangla", "br": "Breton", "bs": "Bosnian"},
    **{"ca": "Catalan", "cs": "Czech", "cy": "Welsh", "da": "Danish", "de": "German"},
    **{"el": "Greek", "en": "English", "eo": "Esperanto", "es": "Spanish", "et": "Estonian"},
    **{"eu": "Basque", "fa": "Persian", "fi": "Finnish", "fo": "Faroese", "fr": "French"},
    **{"fy": "Western Frisian", "ga": "Irish", "gd": "Scottish Gaelic", "gl": "Galician"},
    **{"gu": "Gujarati", "ha": "Hausa", "he": "Hebrew", "hi": "Hindi", "hr": "Croatian"},
    **{"hu": "Hungarian", "hy": "Armenian", "id": "Indonesian", "ig": "Igbo", "is": "Icelandic"},
    **{"it": "Italian", "ja": "Japanese", "jv": "Javanese", "ka": "Georgian", "kk": "Kazakh"},
    **{"km": "Khmer", "kn": "Kannada", "ko": "Korean", "ku": "Kurdish", "ky": "Kyrgyz"},
    **{"lb": "Luxembourgish", "lo": "Lao", "lt": "Lithuanian", "lv": "Latvian", "mg": "Malagasy"},
    **{"mi": "Māori", "mk": "Macedonian", "ml": "Malayalam", "mn": "Mongolian", "mr": "Marathi"},
    **{"ms": "Malay", "mt": "Maltese", "my": "Burmese", "nb": "Norwegian Bokmål", "ne": "Nepali"},
    **{"nl": "Dutch", "nn": "Norwegian Nynorsk", "no": "Norwegian", "or": "Odia", "pa": "Punjabi"},
    **{"pl": "Polish", "ps": "Pashto", "pt": "Portuguese", "ro": "Romanian", "ru": "Russian"},
    **{"sd": "Sindhi", "si": "Sinhala", "sk": "Slovak", "sl": "Slovenian", "so": "Somali"},
    **{"sq": "Albanian", "sr": "Serbian", "sv": "Swedish", "sw": "Swahili", "ta": "Tamil"},
    **{"te": "Telugu", "tg": "Tajik", "th": "Thai", "tk": "Turkmen", "tr": "Turkish"},
    **{"tt": "Tatar", "ug": "Uyghur", "uk": "Ukrainian", "ur": "Urdu", "uz": "Uzbek"},
    **{"vi": "Vietnamese", "wo": "Wolof", "xh": "Xhosa", "yi": "Yiddish", "yo": "Yoruba"},
    **{"zh": "Chinese", "zu": "Zulu"},
}

# ---- DiscoEval ---------------------------------------------------------------------------------
# Names, words and numbers of columns as in the original scripts' table, which joined the sentences
# by tabs; T5's vocabulary reads a tab as the space that stands here.

SENTENCES = {**BY_ACCURACY, "rows": "numbered_sentences"}
TWO_SENTENCES = {**SENTENCES, "text_column_name": ["sentences.0", "sentences.1"]}
POSITION = {
    **SENTENCES,
    "text_column_name": [f"sentences.{i}" for i in range(5)],
    "labels": {
        0: "First sentence",
        1: "Second sentence",
        2: "Third sentence",
        3: "Fourth sentence",
        4: "Fifth sentence",
    },
    "metric_names": ["accuracy", "f1_macro"],
}
ORDER = {
    **TWO_SENTENCES,
    "labels": {0: "Incorrect order", 1: "Correct order"},
    "metric_names": ["accuracy", "f1"],
}
COHERENCE = {
    **SENTENCES,
    "text_column_name": [f"sentences.{i}" for i in range(6)],
    "labels": {0: "Incoherent", 1: "Coherent"},
    "metric_names": ["accuracy", "f1"],
}
RELATION = {**TWO_SENTENCES, "metric_names": ["accuracy", "f1_macro"]}
SECOND_TO_FIFTH = ["second_sentence:", "third_sentence:", "fourth_sentence:", "fifth_sentence:"]
SECOND_TO_SIXTH = [*SECOND_TO_FIFTH, "sixth_sentence:"]

PDTB_RELATIONS = [
    *("Comparison.Concession", "Comparison.Contrast", "Contingency.Cause"),
    *("Contingency.Condition", "Contingency.Pragmatic cause", "Contingency.Pragmatic condition"),
    *("Expansion.Alternative", "Expansion.Conjunction", "Expansion.Instantiation"),
    *("Expansion.List", "Expansion.Restatement", "Temporal.Asynchronous", "Temporal.Synchrony"),
]
ONLY_IMPLICIT = ["Contingency.Pragmatic cause"]
ONLY_EXPLICIT = ["Contingency.Condition", "Contingency.Pragmatic condition"]
RST_RELATIONS = [
    *("NS-Explanation", "NS-Evaluation", "NN-Condition", "NS-Summary", "SN-Cause"),
    *("SN-Background", "NS-Background", "SN-Summary", "NS-Topic-Change", "NN-Explanation"),
    *("SN-Topic-Comment", "NS-Elaboration", "SN-Attribution", "SN-Manner-Means"),
    *("NN-Evaluation", "NS-Comparison", "NS-Contrast", "SN-Condition", "NS-Temporal"),
    *("NS-Enablement", "SN-Evaluation", "NN-Topic-Comment", "NN-Temporal"),
    *("NN-Textual-organization", "NN-Same-unit", "NN-Comparison", "NN-Topic-Change"),
    *("SN-Temporal", "NN-Joint", "SN-Enablement", "SN-Explanation", "NN-Contrast", "NN-Cause"),
    *("SN-Contrast", "NS-Attribution", "NS-Topic-Comment", "SN-Elaboration", "SN-Comparison"),
    *("NS-Cause", "NS-Condition", "NS-Manner-Means"),
]

DISCOEVAL = {
    "sp_arxiv": {
        **POSITION,
        "prefix": ["SParxiv: first_sentence:", *SECOND_TO_FIFTH],
        "hub_name": "SParxiv",
    },
    "sp_rocstory": {
        **POSITION,
        "prefix": ["SProcstory: first_sentence:", *SECOND_TO_FIFTH],
        "hub_name": "SProcstory",
    },
    "sp_wiki": {
        **POSITION,
        "prefix": ["SPwiki: first_sentence:", *SECOND_TO_FIFTH],
        "hub_name": "SPwiki",
    },
    "bso_arxiv": {
        **ORDER,
        "prefix": ["BSOarxiv: first_sentence:", "second_sentence:"],
        "hub_name": "BSOarxiv",
    },
    "bso_rocstory": {
        **ORDER,
        "prefix": ["BSOrocstory: first_sentence:", "second_sentence:"],
        "hub_name": "BSOrocstory",
    },
    "bso_wiki": {
        **ORDER,
        "prefix": ["BSOwiki: first_sentence:", "second_sentence:"],
        "hub_name": "BSOwiki",
    },
    "dc_chat": {
        **COHERENCE,
        "prefix": ["DCchat: first_sentence:", *SECOND_TO_SIXTH],
        "hub_name": "DCchat",
    },
    "dc_wiki": {
        **COHERENCE,
        "prefix": ["DCwiki: first_sentence:", *SECOND_TO_SIXTH],
        "hub_name": "DCwiki",
    },
    "rst": {
        **RELATION,
        "prefix": ["RST: first_sentence:", "second_sentence:"],
        "labels": dict(enumerate(RST_RELATIONS)),
        "hub_name": "RST",
    },
    "pdtb_e": {
        **RELATION,
        "prefix": ["PDTB_E: first_sentence:", "second_sentence:"],
        "labels": dict(enumerate(r for r in PDTB_RELATIONS if r not in ONLY_IMPLICIT)),
        "hub_name": "PDTB_E",
    },
    "pdtb_i": {
        **RELATION,
        "prefix": ["PDTB_I: first_sentence:", "second_sentence:"],
        "labels": dict(enumerate(r for r in PDTB_RELATIONS if r not in ONLY_EXPLICIT)),
        "hub_name": "PDTB_I",
    },
    "ssp_abs": {
        **SENTENCES,
        "prefix": "SSPabs: first_sentence:",
        "text_column_name": "sentences.0",
        "labels": {0: "Does not belong to abstract", 1: "Belongs to abstract"},
        "metric_names": ["accuracy", "f1"],
        "hub_name": "SSPabs",
    },
}

# ---- answer selection: is this sentence an answer? ----------------------------------------------

SELECTION = {
    **TRUTH,
    "text_column_name": ["question", "sentence"],
    "metric_to_optimize": "map",
    "metric_names": ["map", "mrr", "accuracy"],
    "group_column_name": "question",
    "hub_name": None,
}

ANSWER_SELECTION = {
    "wikiqa": {
        **SELECTION,
        "prefix": ["wikiqa question:", "sentence:"],
        "text_column_name": ["question", "answer"],
        "hub_path": "microsoft/wiki_qa",
    },
    "trecqa": {**SELECTION, "prefix": ["trecqa question:", "sentence:"], "hub_path": None},
    "asnq": {
        **SELECTION,
        "prefix": ["asnq question:", "sentence:"],
        "hub_path": "AmazonScience/asnq",
        "splits": {"train": "train", "validation": "validation"},
    },
}

# ---- spelling ----------------------------------------------------------------------------------

CORRECTION = {
    "prefix": "correct spelling:",
    "text_column_name": "source",
    "label_column_name": "target",
    "labels": None,
    "metric_to_optimize": "correction_accuracy",
    "metric_names": ["correction_accuracy", "chrf"],
}
DETECTION = {
    "prefix": "detect misspelling:",
    "text_column_name": "source",
    "label_column_name": "target",
    "labels": {0: "correct", 1: "misspelled"},
    "metric_to_optimize": "f1",
    "metric_names": ["f1", "accuracy"],
    "answer": "is_misspelled",
}
WORD_DETECTION = {
    "prefix": "mark misspelled words:",
    "text_column_name": "source",
    "label_column_name": "target",
    "labels": None,
    "metric_to_optimize": "word_f1",
    "metric_names": ["word_f1", "word_accuracy"],
    "target": "word_marks",
    "answer": "word_marks",
}

SPELLING = {
    "correction": CORRECTION,
    "detection": DETECTION,
    "word_detection": WORD_DETECTION,
    "bea322": CORRECTION,
    "bea322_detection": {**DETECTION, "file_name": "bea322"},
    "bea322_word_detection": {**WORD_DETECTION, "file_name": "bea322"},
    "birkbeck_words1": CORRECTION,
}

# ---- instructions ------------------------------------------------------------------------------

INSTRUCTIONS = {
    "super_natural_instructions": {
        "prefix": ["Definition:", "Input:"],
        "text_column_name": ["definition", "inputs"],
        "label_column_name": "targets",
        "labels": None,
        "metric_to_optimize": "rougeL_stemmed",
        "metric_names": ["rougeL_stemmed", "exact_match"],
        "hub_path": "Muennighoff/natural-instructions",
        "hub_name": None,
        "splits": {"train": "train", "test": "test"},
        "input": "definition_and_input",
        "target": "first",
        "answer": "texts",
        "reference": "label",
    },
}

ENGLISH_BENCHMARKS = ("glue", "super_glue", "qa", "summarization", "discoeval", "answer_selection")

DATASET_VALS = {
    "glue": GLUE,
    "super_glue": SUPER_GLUE,
    "qa": QA,
    "summarization": SUMMARIZATION,
    "translation": TRANSLATION,
    "discoeval": DISCOEVAL,
    "answer_selection": ANSWER_SELECTION,
    "spelling": SPELLING,
    "instructions": INSTRUCTIONS,
}


# ---- models --------------------------------------------------------------------------------------

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

# ---- published scores ---------------------------------------------------------------------------
# T5's own, for model cards: Raffel et al., "Exploring the Limits of Transfer Learning with a
# Unified Text-to-Text Transformer" (JMLR 2020, arXiv 1910.10683). The sizes are Table 14: test
# sets, by the leaderboards for GLUE and SuperGLUE, and SQuAD's validation set; models of a
# multi-task mixture, each fine-tuned. T5-11B on SuperGLUE is the later row of the leaderboard,
# average 89.3, as quoted in Table 5 of arXiv 2110.07904; Table 14 prints the average 88.9.
# "baseline" is the first row of Table 16: a model of base size, each task by itself, on validation
# sets. None: not scored there (WNLI), or found in no second source.
# No copy of the paper was at hand. A test holds that GLUE and SuperGLUE add up to the printed
# averages. The rest was compared with quotations: Table 14 in course notes; the baseline's SQuAD in
# arXiv 2002.05202, its ROUGE-2 and BLEU in course notes again.

PUBLISHED_SOURCE = (
    "Raffel et al. 2020 (arXiv 1910.10683), Tables 14 and 16, as others quote them; T5-11B on "
    "SuperGLUE: the leaderboard's row"
)
PUBLISHED_MODELS = ("baseline", "small", "base", "large", "3B", "11B")
PUBLISHED_SCORES = {
    "glue": {
        "cola": {"matthews": (53.84, 41.0, 51.1, 61.2, 67.1, 71.6)},
        "sst2": {"accuracy": (92.68, 91.8, 95.2, 96.3, 97.4, 97.5)},
        "mrpc": {
            "f1": (92.07, 89.7, 90.7, 92.4, 92.5, 92.8),
            "accuracy": (88.92, 86.6, 87.5, 89.9, 90.0, 90.4),
        },
        "stsb": {
            "pearson": (88.02, 85.6, 89.4, 89.9, 90.6, 93.1),
            "spearman": (87.94, 85.0, 88.6, 89.2, 89.8, 92.8),
        },
        "qqp": {
            "f1": (88.67, 70.0, 72.6, 73.9, 74.4, 75.1),
            "accuracy": (91.56, 88.0, 89.4, 89.9, 89.7, 90.6),
        },
        "mnli_matched": {"accuracy": (84.24, 82.4, 87.1, 89.9, 91.4, 92.2)},
        "mnli_mismatched": {"accuracy": (84.57, 82.3, 86.2, 89.6, 91.2, 91.9)},
        "qnli": {"accuracy": (90.48, 90.3, 93.7, 94.8, 96.3, 96.9)},
        "rte": {"accuracy": (76.28, 69.9, 80.1, 87.2, 91.1, 92.8)},
        "wnli": {"accuracy": (None, 69.2, 78.8, 85.6, 89.7, 94.5)},
    },
    "super_glue": {
        "boolq": {"accuracy": (76.62, 76.4, 81.4, 85.4, 89.9, 91.2)},
        "cb": {
            "f1_macro": (91.22, 56.9, 86.2, 91.6, 90.3, 93.9),
            "accuracy": (91.96, 81.6, 94.0, 94.8, 94.4, 96.8),
        },
        "copa": {"accuracy": (66.20, 46.0, 71.2, 83.4, 92.0, 94.8)},
        "multirc": {
            "f1": (66.13, 69.3, 79.7, 83.3, 86.8, 88.1),
            "group_exact_match": (25.78, 26.3, 43.1, 50.7, 58.3, 63.3),
        },
        "record": {
            "squad_f1": (69.05, 56.3, 75.0, 86.8, 91.2, 94.1),
            "squad_em": (68.16, 55.4, 74.2, 85.9, 90.4, 93.4),
        },
        "rte": {"accuracy": (75.34, 73.3, 81.5, 87.8, 90.7, 92.5)},
        "wic": {"accuracy": (68.04, 66.9, 68.3, 69.3, 72.1, 76.9)},
        "wsc": {"accuracy": (78.56, 70.5, 80.8, 86.3, 90.4, 93.8)},
    },
    "qa": {
        "squad": {
            "squad_em": (80.88, 79.10, 85.44, 86.66, 88.53, 91.26),
            "squad_f1": (88.81, 87.24, 92.08, 93.79, 94.95, 96.22),
        },
    },
    "summarization": {
        "cnn_dailymail": {
            "rouge1": (None, 41.12, 42.05, 42.50, 42.72, 43.52),
            "rouge2": (19.24, 19.56, 20.34, 20.68, 21.02, 21.55),
            "rougeLsum": (None, 38.35, 39.40, 39.75, 39.94, 40.69),
        },
    },
    "translation": {
        "wmt_t2t_en_de": {"bleu": (26.98, 26.7, 30.9, 32.0, 31.8, 32.1)},
        "wmt15_en_fr": {"bleu": (39.82, 36.0, 41.2, 41.5, 42.6, 43.4)},
        "wmt16_en_ro": {"bleu": (27.65, 26.8, 28.0, 28.1, 28.2, 28.1)},
    },
}
