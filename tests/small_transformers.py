"""What small configurations of transformers' architectures have in common, of Flax and of PyTorch."""

VOCABULARY = 97
SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "tie_word_embeddings": False,
}
