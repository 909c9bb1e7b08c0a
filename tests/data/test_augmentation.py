"""New texts: how they are made, that they can be made again, and a training on fresh ones."""

from collections import Counter

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models
from torch.utils.data import DataLoader
from transformers import DataCollatorWithPadding, PreTrainedTokenizerFast

from hf_distill import (
    DistillationArguments,
    DistillationTrainer,
    LSTMStudentConfig,
    LSTMStudentForSequenceClassification,
    cache_teacher_outputs,
)
from hf_distill.data.augmentation import LONGEST_NGRAM, FreshTexts, augmented
from hf_distill.data.config import Augment
from hf_distill.data.word_replacement import MaskedLanguageModel, Text
from tests.conftest import tiny_bert
from tests.data.test_word_replacement import WORDS, tiny_masked_language_model, word_tokenizer

TOKENIZER = word_tokenizer()
MASK = TOKENIZER.mask_token


def corpus(number: int = 40, length: int = 12, seed: int = 0) -> list[str]:
    generator = np.random.default_rng(seed)
    return [", ".join(generator.choice(WORDS, length).tolist()) + "!" for _ in range(number)]


def made(settings: Augment, texts: list[str] | None = None, **options) -> list[str]:
    return augmented(texts or corpus(), settings, tokenizer=TOKENIZER, **options)


@pytest.mark.parametrize("model", [False, True])
def test_the_same_again_and_more_of_them_begin_with_the_same(model):
    settings = {"replace": 0.2, "masked_language_model": "given" if model else None}
    given = MaskedLanguageModel(tiny_masked_language_model(TOKENIZER), TOKENIZER) if model else None
    texts = made(Augment(150, **settings), masked_language_model=given)
    assert made(Augment(150, **settings), masked_language_model=given) == texts
    assert made(Augment(70, **settings), masked_language_model=given) == texts[:70]
    for change in ({"seed": 1}, {"epoch": 1}):
        others = made(Augment(150, **settings), masked_language_model=given, **change)
        assert len(set(others) & set(texts)) < 40  # short ones come again by chance


def test_masks():
    old = {tuple(Text(text).words): text for text in corpus()}
    texts = made(Augment(1000, mask=0.3, replace=0, ngram=0))
    words = [text.replace("!", "").split(", ") for text in texts]
    for text, new in zip(texts, words, strict=True):
        sources = [o for o in old if all(b in (a, MASK) for a, b in zip(o, new, strict=True))]
        assert sources, text
        assert text.endswith("!")
    share = sum(row.count(MASK) for row in words) / sum(map(len, words))
    assert share == pytest.approx(0.3, abs=4 * (0.3 * 0.7 / 12_000) ** 0.5 + 0.01)  # unchanged ones are left out


def test_every_text_is_gone_through_before_any_again():
    old = corpus()
    texts = made(Augment(80, mask=0, replace=0, ngram=1, distinct=False), old)
    for turn in (texts[:40], texts[40:]):
        # Which text a stretch was cut from: count those that could be its source, by a matching of one each.
        owners = [[number for number, whole in enumerate(old) if text in whole] for text in turn]
        assert all(owners)
        alone = [numbers[0] for numbers in owners if len(numbers) == 1]
        assert len(alone) == len(set(alone)) > 15
    assert texts[:40] != texts[40:]


@pytest.mark.parametrize("settings", [Augment(200), Augment(200, mask=0.3, replace=0.6, ngram=0.5, distinct=False)])
def test_a_new_text_says_which_old_one_it_was_made_from(settings):
    old = ["", *(f"So 1{number} 1{number} 1{number} it ends" for number in range(40)), "?!", *["a film", "a day"] * 5]
    sources: list[int] = []
    texts = made(settings, old, sources=sources)
    assert texts == made(settings, old)
    assert len(sources) == len(texts) == 200
    assert {0, 41} & set(sources) == set()  # nothing is made from texts without a word
    assert set(range(1, 41)) < set(sources)
    for text, source in zip(texts, sources, strict=True):
        assert {word for word in Text(text).words if word.isdigit()} <= {f"1{source - 1}"}, text


def test_ngrams():
    old = corpus()
    texts = made(Augment(3000, mask=0, replace=0, ngram=1, distinct=False), old)
    assert all(any(text in whole for whole in old) for text in texts)
    lengths = Counter(len(Text(text).words) for text in texts)
    assert sorted(lengths) == list(range(1, LONGEST_NGRAM + 1))
    assert all(count == pytest.approx(600, abs=4 * (3000 * 0.2 * 0.8) ** 0.5) for count in lengths.values())
    share = np.mean([len(Text(text).words) < 6 for text in made(Augment(2000, ngram=0.25, distinct=False), old)])
    assert share == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / 2000) ** 0.5)


def test_replacement_follows_the_weights():
    """Between "a" and "film" stand good and bad, as 2 to 1; the question mark tells where fine was replaced."""
    old = ["a fine film?", "a good film", "a good film", "a bad film"]
    texts = made(Augment(4000, mask=0, replace=1, ngram=0, distinct=False), old)
    counts = Counter(text for text in texts if text.endswith("?"))
    assert set(counts) == {"a good film?", "a bad film?"}  # nothing else begins a text, or ends it
    assert counts["a good film?"] == pytest.approx(1000 * 2 / 3, abs=4 * (1000 * 2 / 9) ** 0.5)


def test_replaced_by_a_masked_language_model():
    model = MaskedLanguageModel(tiny_masked_language_model(TOKENIZER), TOKENIZER)
    settings = Augment(100, mask=0.2, replace=0.4, ngram=0, masked_language_model="given")
    counts: dict[str, int] = {}
    texts = made(settings, masked_language_model=model, counts=counts)
    words = [word for text in texts for word in text.rstrip("!").split(", ")]
    assert set(words) <= {*WORDS, MASK}
    assert words.count(MASK) == counts["words masked"]
    assert counts["words replaced"] == pytest.approx(480, abs=70)
    assert counts["words without another to replace them, kept"] == 0


def test_a_masked_language_model_replaces_words_and_nothing_else():
    """By hand: each new text is its old one but for words that the model offers for these very places."""
    model = MaskedLanguageModel(tiny_masked_language_model(TOKENIZER), TOKENIZER)
    settings = Augment(60, mask=0, replace=0.4, ngram=0, masked_language_model="given")
    old, sources = [f"[CLS] {text} [PAD]?" for text in corpus(20)], []
    texts = made(settings, old, masked_language_model=model, sources=sources)
    assert texts == made(settings, old, masked_language_model=model)
    assert texts != made(settings, old, masked_language_model=model, seed=1)
    changed = 0
    for text, source in zip(texts, sources, strict=True):
        before, after = Text(old[source]), Text(text)
        assert after.gaps == before.gaps
        places = [n for n, (a, b) in enumerate(zip(before.words, after.words, strict=True)) if a != b]
        assert places
        for place, (words, _) in zip(places, model.propose([before], [places])[0], strict=True):
            assert after.words[place] in words
            assert after.words[place] in WORDS
        changed += len(places)
    assert changed == pytest.approx(60 * 14 * 0.4, abs=60)


def test_the_setting_loads_the_model(tmp_path):
    tiny_masked_language_model(TOKENIZER).save_pretrained(tmp_path)
    TOKENIZER.save_pretrained(tmp_path)
    given = MaskedLanguageModel.load(tmp_path)
    settings = Augment(30, replace=0.4, masked_language_model=str(tmp_path))
    assert made(settings) == made(settings, masked_language_model=given) != made(Augment(30, replace=0.4))


def test_new_texts_are_new_distinct_and_counted():
    old = ["Aword", "bword cword", "dword", "...", ""]
    counts: dict[str, int] = {}
    texts = made(Augment(4, mask=0.5, replace=0, ngram=0.5), old, counts=counts)
    assert set(texts) == {"bword", "cword", f"bword {MASK}", f"{MASK} cword"}  # all that there can be
    assert counts["augmented texts"] == 4
    assert counts["old texts without a word, passed over"] == 2
    assert counts["augmented texts that were there already, left out"] > 0
    assert counts["augmented texts of nothing but masks, left out"] > 0
    assert counts["words masked"] == 2
    many = made(Augment(50, mask=0.5, replace=0, ngram=0.5, distinct=False), old)
    assert len(many) == 50 > len(set(many))
    assert set(many) & set(old)
    assert all(Text(text.replace(MASK, "")).words for text in many)


def test_more_than_there_can_be():
    counts: dict[str, int] = {}
    with pytest.raises(ValueError, match=r"asked for 5 new texts, found 4 among 100 drawn from 1 old ones\."):
        made(Augment(5, mask=0.4, replace=0, ngram=0.4), ["bword cword"], counts=counts)
    assert counts["augmented texts"] == 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"texts": 0}, "expected at least one new text, got 0"),
        ({"mask": 1.5}, r"augment\.mask is a probability, from 0 to 1; got 1\.5"),
        ({"ngram": -1}, r"augment\.ngram is a probability"),
        ({"mask": 0.6, "replace": 0.6}, "a word is masked or replaced, so these probabilities are at most 1 together"),
        ({"mask": 0, "replace": 0, "ngram": 0}, "every new text would be an old one"),
        ({"replace": 0, "masked_language_model": "bert"}, "augment.replace is 0. Raise replace"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        Augment(**{"texts": 10, **settings})


def test_texts_that_do_not_fit():
    with pytest.raises(TypeError, match="got one string: its letters would be the texts"):
        made(Augment(1), "a text")
    with pytest.raises(TypeError, match=r"got tuple: \('a', 'b'\). Pairs of texts are not augmented"):
        made(Augment(1), [("a", "b")])
    for texts in (["", "?!"], []):
        with pytest.raises(ValueError, match=f"Expected texts to make new ones from, got {len(texts)} without a word"):
            augmented(texts, Augment(1), tokenizer=TOKENIZER)


def test_the_mask_token_is_one_that_the_tokenizers_know():
    with pytest.raises(ValueError, match=r"needs a mask token: pass tokenizer=\.\.\., or"):
        augmented(corpus(), Augment(1))
    backend = Tokenizer(models.WordLevel({"<unk>": 0}, "<unk>"))
    unknown = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    texts = augmented(corpus(), Augment(20, mask=0.5, replace=0, ngram=0), tokenizer=unknown)
    assert sum("<unk>" in text for text in texts) > 15
    unknown.eos_token = "<unk>"  # as GPT-2's
    with pytest.raises(ValueError, match=r"has no token for a word that is not there .* its unknown token '<unk>'"):
        augmented(corpus(), Augment(1), tokenizer=unknown)
    other = word_tokenizer(mask_token="<mask>")
    with pytest.raises(ValueError, match=r"BertTokenizer.* reads the mask token '<mask>' letter by letter, as \d+ tok"):
        FreshTexts(corpus(), Augment(1), TOKENIZER, teacher_tokenizer=other)


def read(rows, tokenizer=TOKENIZER, name="input_ids") -> list[str]:
    return [tokenizer.decode(row[name], skip_special_tokens=False) for row in rows]


def test_fresh_texts_are_the_augmented_ones_of_each_epoch():
    settings = Augment(30, replace=0.2)
    fresh = FreshTexts(corpus(), settings, TOKENIZER, max_length=8, seed=3)
    assert len(fresh) == 30
    assert set(fresh.column_names) == {"input_ids", "token_type_ids", "attention_mask"}
    for epoch in (0, 2):
        fresh.set_epoch(epoch)
        texts = made(settings, seed=3, epoch=epoch)
        assert (
            read(fresh)
            == read(fresh)
            == [TOKENIZER.decode(TOKENIZER(t, truncation=True, max_length=8).input_ids) for t in texts]
        )


def test_workers_share_the_texts_and_see_the_epoch():
    fresh = FreshTexts(corpus(), Augment(30), TOKENIZER)
    loader = DataLoader(fresh, batch_size=None, num_workers=2, persistent_workers=True)
    epochs = []
    for epoch in (0, 1):
        fresh.set_epoch(epoch)
        epochs.append(sorted(read(loader)))
        assert epochs[-1] == sorted(read(fresh))
    assert epochs[0] != epochs[1]


def test_fresh_texts_of_several_epochs_with_what_the_teacher_says_of_them(tmp_path):
    fresh = FreshTexts(corpus(), Augment(12), TOKENIZER)
    teacher = tiny_bert(num_labels=3)
    options = {"task": "text-classification", "dtype": "float32"}
    made = cache_teacher_outputs(fresh.stream(range(3)), teacher, output_dir=tmp_path / "three", **options)
    epochs = []
    for epoch in range(3):
        fresh.set_epoch(epoch)
        epochs.append(read(fresh))
        alone = cache_teacher_outputs(fresh, teacher, output_dir=tmp_path / str(epoch), **options)
        part = made.select(range(12 * epoch, 12 * epoch + 12))
        assert read(alone) == read(part) == epochs[-1]
        assert np.allclose(alone["teacher_logits"], part["teacher_logits"], atol=1e-6)
    assert epochs[0] != epochs[1] != epochs[2]


def test_a_training_on_fresh_texts(tmp_path):
    """A live teacher with a tokenizer of its own, three epochs; and a resume that reads the third epoch's texts."""
    teacher_tokenizer = word_tokenizer(WORDS[::-1])
    seen: list[dict] = []
    pad = DataCollatorWithPadding(TOKENIZER)

    def collate(rows):
        seen.extend(rows)
        return pad(rows)

    def trainer() -> DistillationTrainer:
        torch.manual_seed(0)
        config = LSTMStudentConfig(vocab_size=len(TOKENIZER), embedding_size=8, hidden_size=8, num_labels=3)
        return DistillationTrainer(
            LSTMStudentForSequenceClassification(config),
            DistillationArguments(
                str(tmp_path),
                num_train_epochs=3,
                per_device_train_batch_size=8,
                hard_label_weight=0,
                soft_target_weight=1,
                learning_rate=0.05,
                save_strategy="epoch",
                logging_strategy="epoch",
                report_to="none",
                disable_tqdm=True,
                use_cpu=True,
            ),
            teacher_model=tiny_bert(num_labels=3),
            teacher_processing_class=teacher_tokenizer,
            train_dataset=FreshTexts(corpus(), Augment(24), TOKENIZER, teacher_tokenizer=teacher_tokenizer),
            data_collator=collate,
        )

    whole = trainer()
    whole.train()
    assert whole.state.global_step == 9
    losses = [entry["soft_loss"] for entry in whole.state.log_history if "soft_loss" in entry]
    assert losses[-1] < losses[0]
    wanted = [
        [TOKENIZER.decode(TOKENIZER(text).input_ids) for text in made(Augment(24), epoch=epoch)] for epoch in range(3)
    ]
    assert read(seen) == [text for texts in wanted for text in texts]
    seen.clear()
    resumed = trainer()
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    assert read(seen) == wanted[2]
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(resumed.model.state_dict()[name], value)
