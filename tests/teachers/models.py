"""Small teachers of several families."""

from typing import Any

from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, set_seed

LLAMA = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 40,
    "initializer_range": 0.5,
    "pad_token_id": 0,
}
GPT2 = {
    "vocab_size": 50,
    "n_embd": 16,
    "n_layer": 2,
    "n_head": 2,
    "n_positions": 40,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.5,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
    "pad_token_id": 0,
}


def tiny_llama(seed: int = 0, model_class: Any = LlamaForCausalLM, **config: Any) -> Any:
    set_seed(seed)
    return model_class(LlamaConfig(**{**LLAMA, **config})).eval()


def tiny_gpt2(seed: int = 0, model_class: Any = GPT2LMHeadModel, **config: Any) -> Any:
    set_seed(seed)
    return model_class(GPT2Config(**{**GPT2, **config})).eval()
