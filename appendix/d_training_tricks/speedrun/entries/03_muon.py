"""Muon for the matrices inside the blocks, AdamW for the rest, each at its own rate (chapter 5)."""

from shared.previous_chapters import (
    GPTConfig,
    GPTModel,
    Recipe,
    build_optimizers,
    learning_rate_at,
    training_step,
)

TOKENS = 61_440
RECIPE = Recipe(matrix_rate=0.02, table_rate=0.01, vector_rate=0.003, momentum=0.8)


def train(text, seed):
    config = GPTConfig(text.vocab_size, text.longest, embed_dim=128, num_heads=4, num_layers=2)
    model = GPTModel(config, seed=seed)
    optimizers = build_optimizers(model, RECIPE)
    while text.left:
        batch = text.windows(rows=4, length=64)
        factor = learning_rate_at(text.progress, warmup=0.02, decay=0.6)
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = factor * group["peak"]
        training_step(model, optimizers, [batch], RECIPE.max_norm)
        yield model
