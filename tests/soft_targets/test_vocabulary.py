"""Cached targets over a table that is padded: as a live teacher's."""

import pytest
import torch

from hf_distill import DistillationArguments, DistillationTrainer, cache_teacher_outputs
from hf_distill.columns import LOGITS, TAIL, TOP_K_IDS, TOP_K_LOGITS
from hf_distill.soft_targets.vocabulary import of_shared_tokens
from tests.cases import pad
from tests.conftest import tiny_rows
from tests.teachers.models import tiny_llama


class Tokenizer:
    """All that is asked of a tokenizer here."""

    padding_side = "right"
    all_special_tokens = ()

    def __init__(self, tokens=50):
        self.tokens = tokens

    def get_vocab(self):
        return {str(number): number for number in range(self.tokens)}


def rows():
    return tiny_rows(12).remove_columns("labels").map(lambda row: {"labels": row["input_ids"]})


def cached(folder, teacher, tokenizer=None, **options):
    return cache_teacher_outputs(
        rows(),
        teacher,
        task="text-generation",
        output_dir=folder,
        dtype="float32",
        teacher_processing_class=tokenizer,
        **options,
    )


def soft(folder, dataset, teacher=None, tokenizers=(None, None), vocabulary=50):
    settings = DistillationArguments(
        str(folder),
        max_steps=1,
        learning_rate=0.0,
        temperature=1.0,
        hard_label_weight=0.0,
        soft_target_weight=1.0,
        logging_steps=1,
        report_to="none",
        use_cpu=True,
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = DistillationTrainer(
        tiny_llama(vocab_size=vocabulary),
        settings,
        teacher_model=teacher,
        train_dataset=dataset,
        data_collator=pad,
        teacher_processing_class=tokenizers[1],
    )
    # Trainer would save a tokenizer, and this one is none.
    trainer.alignment.tokenizers = tokenizers
    trainer.train()
    return next(value for name, value in trainer.state.log_history[0].items() if "soft" in name)


@pytest.mark.parametrize("top_k", [None, 50])
@pytest.mark.parametrize("known", [True, False])
def test_a_cache_of_a_padded_table_is_as_the_live_teacher(tmp_path, top_k, known):
    """All 50 tokens are kept, so that the divergence is exact; without the tokenizer 64 rows are."""
    teacher, tokenizer = tiny_llama(seed=1, vocab_size=64), Tokenizer()
    made = cached(tmp_path / "cache", teacher, tokenizer if known else None, top_k=top_k and (50 if known else 64))
    teacher.resize_token_embeddings(50)  # cuts the rows that pad the table off
    expected = soft(tmp_path / "live", rows(), teacher)
    assert soft(tmp_path / "cached", made, tokenizers=(tokenizer, tokenizer)) == pytest.approx(expected, abs=1e-5)


def test_the_tail_has_no_padding_rows(tmp_path):
    teacher = tiny_llama(seed=1, vocab_size=64)
    made = cached(tmp_path, teacher, Tokenizer(), top_k=4)
    assert max(max(max(ids) for ids in row) for row in made[TOP_K_IDS]) < 50
    with torch.no_grad():
        logits = teacher(torch.tensor([made[0]["input_ids"]])).logits[0, :, :50]
    rest = logits.scatter(1, torch.tensor(made[0][TOP_K_IDS]).long(), -torch.inf).logsumexp(-1)
    assert torch.allclose(torch.tensor(made[0][TAIL]), rest, atol=1e-5)
    with pytest.raises(ValueError, match=r"options.tokens: 50 there, 45 now|tokens"):
        cached(tmp_path, teacher, Tokenizer(45), top_k=4)


@pytest.mark.parametrize("top_k", [None, 20])
def test_tables_of_two_sizes_need_a_tokenizer(tmp_path, top_k):
    made = cached(tmp_path / "cache", tiny_llama(seed=1, vocab_size=64), top_k=top_k)
    with pytest.raises(ValueError, match=r"table has .*64 rows and the student's 50, and it is unknown which tokens"):
        soft(tmp_path, made)


def test_equal_tables_are_compared_whole():
    logits = {LOGITS: torch.zeros(2, 3, 64)}
    assert of_shared_tokens(logits, 64, 50) == (logits, None)
    shorter, number = of_shared_tokens(logits, 70, 50)
    assert (shorter[LOGITS].shape, number) == ((2, 3, 50), 50)
    kept = {TOP_K_LOGITS: torch.zeros(1, 2), TOP_K_IDS: torch.tensor([[3, 49]]), TAIL: torch.zeros(1)}
    assert of_shared_tokens(kept, 50, None) == (kept, None)
