"""A translation teacher trained from nothing: English to Spanish, 7.7M parameters, on 26,000 aligned Bible verses.

    python examples/data/bible_en_es.py
    python examples/translation_teacher.py --data bible_en_es.tsv.gz --output outputs/bible

Writes `train.tsv`, `validation.tsv` (Daniel) and `test.tsv` (John and Ecclesiastes) and `teacher/`, a Marian model with
its tokenizer. Whole books are held out, and no verse is left in `train.tsv` that equals a held-out one but for case and
punctuation. About an hour on two cores with bfloat16. A Hub model such as Helsinki-NLP/opus-mt-en-es needs none of
this: name it as `teacher.model` in `examples/recipes/translation.yaml`.
"""

import argparse
import math
from pathlib import Path

import datasets
import pandas as pd
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    DataCollatorForSeq2Seq,
    MarianConfig,
    MarianMTModel,
    PreTrainedTokenizerFast,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    set_seed,
)

from hf_distill.data.near_duplicates import near_duplicate_key
from hf_distill.environment import has_fast_bf16

VALIDATION, TEST = ["Dan"], ["John", "Eccl"]
PAD, EOS, UNKNOWN = "<pad>", "</s>", "<unk>"
LENGTH = 128  # tokens a verse at most


def split(path: str, folder: Path) -> datasets.DatasetDict:
    """Write the three files and read them."""
    verses = pd.read_csv(path, sep="\t", keep_default_na=False)
    held_out = verses["book"].isin(VALIDATION + TEST)
    keys = {name: verses[name].map(near_duplicate_key) for name in ("en", "es")}
    repeated = pd.Series(False, index=verses.index)
    for key in keys.values():
        repeated |= key.isin(set(key[held_out]))
    parts = {
        "train": verses[~repeated & ~held_out],
        "validation": verses[verses["book"].isin(VALIDATION)],
        "test": verses[verses["book"].isin(TEST)],
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in parts.items():
        part.to_csv(folder / f"{name}.tsv", sep="\t", index=False)
    return datasets.DatasetDict(
        {name: datasets.Dataset.from_pandas(part, preserve_index=False) for name, part in parts.items()}
    )


def tokenizer_of(texts: list[str], size: int) -> PreTrainedTokenizerFast:
    """One vocabulary for both languages."""
    backend = Tokenizer(models.Unigram())
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    special = [PAD, EOS, UNKNOWN]
    backend.train_from_iterator(
        texts, trainers.UnigramTrainer(vocab_size=size, special_tokens=special, unk_token=UNKNOWN, show_progress=False)
    )
    backend.post_processor = processors.TemplateProcessing(
        single=f"$A {EOS}", special_tokens=[(EOS, backend.token_to_id(EOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token=PAD, eos_token=EOS, unk_token=UNKNOWN, model_max_length=LENGTH
    )


def too_long(part: datasets.Dataset, tokenizer: PreTrainedTokenizerFast) -> int:
    """How many verses have a side of more than `LENGTH` tokens, which is cut."""
    read = tokenizer(list(part["en"]), text_target=list(part["es"]), verbose=False)
    return sum(max(map(len, sides)) > LENGTH for sides in zip(read["input_ids"], read["labels"], strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", default="bible_en_es.tsv.gz")
    parser.add_argument("--output", type=Path, default=Path("outputs/bible"))
    parser.add_argument("--epochs", type=float, default=8)
    parser.add_argument("--vocab-size", type=int, default=8000)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=3)
    options = parser.parse_args()

    set_seed(0)
    parts = split(options.data, options.output)
    tokenizer = tokenizer_of([*parts["train"]["en"], *parts["train"]["es"]], options.vocab_size)
    print(f"Cut at {LENGTH} tokens: { ({name: too_long(part, tokenizer) for name, part in parts.items()}) }")
    rows = parts.map(
        lambda row: tokenizer(row["en"], text_target=row["es"], truncation=True),
        remove_columns=parts["train"].column_names,
    )
    sizes = {f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in (
        ("layers", options.layers), ("attention_heads", 4), ("ffn_dim", 4 * options.width))}  # fmt: skip
    config = MarianConfig(
        vocab_size=len(tokenizer),
        d_model=options.width,
        max_position_embeddings=2 * LENGTH,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        decoder_start_token_id=tokenizer.pad_token_id,
        forced_eos_token_id=None,
        scale_embedding=True,
        dropout=0.1,
        **sizes,
    )
    model = MarianMTModel(config)
    print(f"{model.num_parameters():,} parameters, { ({name: len(part) for name, part in rows.items()}) }")
    steps = math.ceil(len(rows["train"]) / 32 * options.epochs)
    trainer = Seq2SeqTrainer(
        model,
        Seq2SeqTrainingArguments(
            output_dir=str(options.output / "checkpoints"),
            per_device_train_batch_size=32,
            max_steps=steps,
            learning_rate=1e-3,
            warmup_steps=0.1,
            label_smoothing_factor=0.1,
            train_sampling_strategy="group_by_length",
            bf16=has_fast_bf16(),
            use_cpu=not torch.cuda.is_available(),
            eval_strategy="steps",
            eval_steps=max(1, math.ceil(steps / options.epochs)),
            save_strategy="steps",
            save_steps=max(1, math.ceil(steps / options.epochs)),
            save_total_limit=1,
            load_best_model_at_end=True,
            logging_steps=50,
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=rows["train"],
        eval_dataset=rows["validation"],
        data_collator=DataCollatorForSeq2Seq(tokenizer, model),
    )
    trainer.train()
    model.generation_config.max_length = LENGTH
    model.generation_config.num_beams = 4
    model.save_pretrained(options.output / "teacher")
    tokenizer.save_pretrained(options.output / "teacher")


if __name__ == "__main__":
    main()
