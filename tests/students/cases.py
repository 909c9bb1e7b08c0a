"""Small Transformer teachers, their tokenizer and a student's."""

import torch
from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

VOCABULARY = 50
BERT = {"vocab_size": VOCABULARY, "hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
BERT |= {"intermediate_size": 8, "max_position_embeddings": 16}
BART = {"vocab_size": VOCABULARY, "d_model": 24, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 8}
BART |= {"decoder_ffn_dim": 8, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
BART |= {"pad_token_id": 1, "eos_token_id": 2, "bos_token_id": 0, "decoder_start_token_id": 2}


def bert_teacher(head=BertForSequenceClassification, **settings):
    torch.manual_seed(0)
    return head(BertConfig(**BERT | settings)).eval()


def wordpiece(*words):
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    return BertTokenizer(vocab={token: index for index, token in enumerate(tokens)})


TEACHER_TOKENIZER = wordpiece("fly", "##ing", "##s", *(f"w{index}" for index in range(VOCABULARY - 8)))
STUDENT_TOKENIZER = wordpiece("flying", "w3", "##ings", "fly")
