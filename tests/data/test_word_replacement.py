"""Words for a place: by their neighbours in a corpus, and by a masked language model."""

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import BertConfig, BertForMaskedLM, BertModel, BertTokenizerFast, PreTrainedTokenizerFast
from transformers.modeling_outputs import MaskedLMOutput

from hf_distill.data.word_replacement import PROPOSALS, MaskedLanguageModel, Neighbors, Text

LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = [f"{letter}word" for letter in LETTERS]


def word_tokenizer(words=WORDS, **options) -> BertTokenizerFast:
    """Whole words, pieces of words and a full stop."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "##word", "##s", *words]
    return BertTokenizerFast({piece: number for number, piece in enumerate(pieces)}, **options)


class Echo(nn.Module):
    """Finds the first half of the words likely where it reads a mask after the second word, the others elsewhere."""

    def __init__(self, tokenizer, mask: int) -> None:
        super().__init__()
        self.config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=12)
        self.tokenizer, self.mask, self.device = tokenizer, mask, torch.device("cpu")

    def forward(self, input_ids, **rest):
        before = torch.roll(input_ids, 1, dims=1)
        here = (input_ids == self.mask) & (before == self.tokenizer.convert_tokens_to_ids(WORDS[1]))
        first = torch.arange(len(self.tokenizer)) < len(self.tokenizer) - 10
        return MaskedLMOutput(logits=torch.where(here.unsqueeze(-1) == first, 5.0, 0.0) + rest["attention_mask"].sum())


def tiny_masked_language_model(tokenizer, kind=BertForMaskedLM):
    torch.manual_seed(0)
    return kind(
        BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=40,
            initializer_range=0.5,
        )
    )


def test_words_and_gaps_make_up_the_text():
    text = Text("RT @ann: don't go!! http://t.co/x1 #fail ☹")
    assert text.words == ["RT", "@ann", "don't", "go", "http://t.co/x1", "#fail"]
    assert "".join(text.pieces({})) == "RT @ann: don't go!! http://t.co/x1 #fail ☹"
    assert "".join(text.pieces({0: "X", 5: "Y"})) == "X @ann: don't go!! http://t.co/x1 Y ☹"
    assert text.neighbors[0] == ("", "@ann")
    assert text.neighbors[-1] == ("http://t.co/x1", "")
    assert Text("?!").words == []


def test_neighbours_by_hand():
    """c(left, word) · c(word, right) / c(word), by counting."""
    corpus = [Text(text) for text in ("a good film", "a bad film", "a bad day", "A bad", "so good film", "a film")]
    model = Neighbors(corpus)
    [[(words, weights)]] = model.propose([corpus[0]], [[1]])
    # bad: 3 times after a, once before film, 3 in all. film itself never stands before film.
    assert dict(zip(words, weights, strict=True)) == {"bad": 3 * 1 / 3}
    [[(words, weights)]] = model.propose([corpus[1]], [[1]])
    assert dict(zip(words, weights, strict=True)) == {"good": 1 * 2 / 2}
    [[first, (words, weights)]] = model.propose([corpus[2]], [[0, 2]])
    assert first == ([], [])  # nothing else begins a text and stands before bad; "A" is the same word
    assert dict(zip(words, weights, strict=True)) == {"film": 1 * 4 / 4}


def test_a_masked_language_model_is_asked_about_the_places_alone():
    tokenizer = word_tokenizer()
    model = MaskedLanguageModel(Echo(tokenizer, tokenizer.mask_token_id), tokenizer)
    likely, other = set(WORDS[:-10]), set(WORDS[-10:])
    texts = [Text(f"{WORDS[2]}. {WORDS[1]} {WORDS[3]}"), Text("zs"), Text(f"{WORDS[1]}  ({WORDS[0]})")]
    found = model.propose(texts, [[1, 2], [], [1]])
    assert [len(rows) for rows in found] == [2, 0, 1]
    after_a_mask, after_parenthesis = found[0][1][0], found[2][0][0]
    # The word before is masked too, or is the parenthesis: neither is the second word.
    assert other <= set(after_a_mask) and other <= set(after_parenthesis)
    [[(words, weights)]] = model.propose([texts[0]], [[2]])
    assert set(words) == likely - {WORDS[3]}
    assert weights == [1.0] * PROPOSALS


def test_what_a_masked_language_model_offers():
    tokenizer = word_tokenizer()
    model = MaskedLanguageModel(tiny_masked_language_model(tokenizer).train(), tokenizer)
    assert not model.model.training
    assert set(model.words.values()) == set(WORDS)  # no pieces, no full stop, no special tokens
    text = Text(" ".join(WORDS[:6]))
    together = model.propose([text, Text(" ".join(WORDS[:20]))], [[0, 3], [7]])[0]
    alone = model.propose([text], [[0, 3]])[0]
    assert [words for words, _ in together] == [words for words, _ in alone]
    for place, (words, _) in zip((0, 3), alone, strict=True):
        assert len(set(words)) == PROPOSALS
        assert WORDS[place] not in words


def test_the_words_are_the_most_likely_ones_of_the_model_itself(tmp_path):
    """A saved and loaded model with its head, texts of other lengths in one batch; each word here is one token."""
    tokenizer = word_tokenizer()
    tiny_masked_language_model(tokenizer).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    reader, model = MaskedLanguageModel.load(str(tmp_path)), BertForMaskedLM.from_pretrained(tmp_path).eval()
    texts = [WORDS[:3], WORDS[5:25], WORDS[2:9]]
    places = [[2], [0, 7, 19], [3]]
    found = reader.propose([Text("  ".join(words)) for words in texts], places)
    for words, chosen, proposals in zip(texts, places, found, strict=True):
        ids = torch.tensor([tokenizer(" ".join(words))["input_ids"]])
        assert ids.shape[1] == len(words) + 2
        ids[0, [place + 1 for place in chosen]] = tokenizer.mask_token_id
        with torch.no_grad():
            logits = model(ids).logits[0]
        for place, (offered, weights) in zip(chosen, proposals, strict=True):
            order = tokenizer.convert_ids_to_tokens(logits[place + 1].argsort(descending=True).tolist())
            assert offered == [word for word in order if word in WORDS and word != words[place]][:PROPOSALS]
            assert weights == [1.0] * PROPOSALS


def test_words_of_bytes_whose_mask_takes_the_space_before_it():
    """RoBERTa's kind: a word after a space is another token than the same letters inside a word."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    bytes_ = pre_tokenizers.ByteLevel.alphabet()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=bytes_, special_tokens=special, show_progress=False)
    backend.train_from_iterator([" ".join(["x", *WORDS])], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        **{"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"},
        mask_token=AddedToken("<mask>", lstrip=True),
    )
    model = MaskedLanguageModel(Echo(tokenizer, tokenizer.mask_token_id), tokenizer)
    assert set(WORDS) <= set(model.words.values())
    text = Text(f"{WORDS[0]},   {WORDS[1]} {WORDS[2]}!")
    numbers = torch.arange(len(tokenizer), dtype=torch.float32)
    model.model.forward = lambda input_ids, **rest: MaskedLMOutput(
        logits=torch.where((input_ids == tokenizer.mask_token_id).unsqueeze(-1), numbers, -numbers)
    )
    [found] = model.propose([text], [[1, 2]])
    for words, _ in found:  # the last tokens are likely where a mask is read
        assert words[0] == model.words[max(model.words)]


def test_places_beyond_what_the_model_reads():
    tokenizer = word_tokenizer(model_max_length=6)
    model = MaskedLanguageModel(tiny_masked_language_model(tokenizer), tokenizer)
    near, far = model.propose([Text(" ".join(WORDS))], [[2, 20]])[0]
    assert len(near[0]) == PROPOSALS
    assert far == ([], [])


def test_a_model_without_its_head_is_refused(tmp_path):
    tokenizer = word_tokenizer()
    for name, kind in (("whole", BertForMaskedLM), ("headless", BertModel)):
        tiny_masked_language_model(tokenizer, kind).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    assert len(MaskedLanguageModel.load(tmp_path / "whole").words) == len(WORDS)
    with pytest.raises(ValueError, match=r"has no weights for cls\.predictions.* so it would fill masks at random"):
        MaskedLanguageModel.load(tmp_path / "headless")


def test_tokenizers_that_do_not_fit():
    tokenizer = word_tokenizer(WORDS[:PROPOSALS])
    with pytest.raises(ValueError, match=r"knows 15 tokens that are whole words, and 16 are needed"):
        MaskedLanguageModel(tiny_masked_language_model(tokenizer), tokenizer)
    tokenizer = word_tokenizer()
    tokenizer.mask_token = None
    with pytest.raises(ValueError, match=r"Expected the fast tokenizer of a masked language model, got .* None"):
        MaskedLanguageModel(tiny_masked_language_model(tokenizer), tokenizer)
