"""A small teacher of every family."""

import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BartForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForTokenClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MarianConfig,
    MarianMTModel,
    ModernBertConfig,
    ModernBertForMaskedLM,
    ModernBertForSequenceClassification,
    MPNetConfig,
    MPNetForSequenceClassification,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    RobertaConfig,
    RobertaForSequenceClassification,
    RobertaForTokenClassification,
    T5Config,
    T5ForConditionalGeneration,
)

VOCABULARY = 40
SPECIAL = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
ENCODER = {
    **SPECIAL,
    "vocab_size": VOCABULARY,
    "hidden_size": 12,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "max_position_embeddings": 16,
    "num_labels": 3,
}
DECODER = ENCODER | {"hidden_size": 16, "num_attention_heads": 4, "num_key_value_heads": 2}
BOTH = {
    **SPECIAL,
    "vocab_size": VOCABULARY,
    "d_model": 12,
    "encoder_layers": 3,
    "decoder_layers": 3,
    "encoder_attention_heads": 3,
    "decoder_attention_heads": 3,
    "encoder_ffn_dim": 20,
    "decoder_ffn_dim": 20,
    "max_position_embeddings": 16,
    "decoder_start_token_id": 1,
    "forced_eos_token_id": None,
}
T5 = {"vocab_size": VOCABULARY, "d_model": 12, "d_kv": 4, "d_ff": 20, "num_layers": 3, "num_heads": 3}
T5 |= {"decoder_start_token_id": 0}
DISTILBERT = {"vocab_size": VOCABULARY, "dim": 12, "n_layers": 3, "n_heads": 3, "hidden_dim": 20, "num_labels": 3}
GPT2 = {"vocab_size": VOCABULARY, "n_embd": 12, "n_layer": 3, "n_head": 3, "n_positions": 16, "pad_token_id": 1}
GPT2 |= {"bos_token_id": 0, "eos_token_id": 2}
TEACHERS = {
    "bert": lambda: BertForSequenceClassification(BertConfig(**ENCODER)),
    "bert masked": lambda: BertForMaskedLM(BertConfig(**ENCODER)),
    "roberta": lambda: RobertaForSequenceClassification(RobertaConfig(**ENCODER)),
    "roberta tokens": lambda: RobertaForTokenClassification(RobertaConfig(**ENCODER)),
    "distilbert": lambda: DistilBertForTokenClassification(DistilBertConfig(**DISTILBERT)),
    "modernbert": lambda: ModernBertForSequenceClassification(ModernBertConfig(**ENCODER)),
    "modernbert masked": lambda: ModernBertForMaskedLM(ModernBertConfig(**ENCODER)),
    "mpnet": lambda: MPNetForSequenceClassification(MPNetConfig(**ENCODER)),
    "bart": lambda: BartForConditionalGeneration(BartConfig(**BOTH)),
    "bart classification": lambda: BartForSequenceClassification(BartConfig(**BOTH)),
    "marian": lambda: MarianMTModel(MarianConfig(**BOTH)),
    "t5": lambda: T5ForConditionalGeneration(T5Config(**T5)),
    "t5 gated": lambda: T5ForConditionalGeneration(T5Config(**T5, feed_forward_proj="gated-gelu")),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**GPT2)),
    "gpt2 classification": lambda: GPT2ForSequenceClassification(GPT2Config(**GPT2)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**DECODER)),
    "llama tied": lambda: LlamaForCausalLM(LlamaConfig(**DECODER, tie_word_embeddings=True)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**DECODER)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**DECODER, head_dim=6)),
}


def make_teacher(name):
    """A teacher whose every weight says something, norms and biases too."""
    torch.manual_seed(0)
    teacher = TEACHERS[name]().eval()
    with torch.no_grad():
        for parameter in teacher.parameters():
            if parameter.requires_grad:
                parameter.normal_(0.1, 0.5)
        if "final_logits_bias" in dict(teacher.named_buffers()):
            teacher.final_logits_bias.normal_()
    return teacher


def logits_of(model):
    """What a model says about two fixed rows."""
    ids = torch.randint(3, VOCABULARY, (2, 7), generator=torch.Generator().manual_seed(1))
    ids[:, -1] = 2  # BART's classifier reads the end token
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if model.config.is_encoder_decoder and "Sequence" not in type(model).__name__:
        inputs["decoder_input_ids"] = ids[:, :5]
    with torch.no_grad():
        return model.eval()(**inputs).logits
