"""Whole stories in place of windows: no lesson begins in the middle of a sentence.

And chapter 5's head start: positions begin as waves, attention as a hand that passes on what it
sees.
"""

from shared.previous_chapters import (
    GPTConfig,
    GPTModel,
    Recipe,
    build_optimizers,
    head_start,
    learning_rate_at,
    training_step,
)

TOKENS = 51_200
RECIPE = Recipe(matrix_rate=0.02, table_rate=0.01, vector_rate=0.003, momentum=0.8)


def train(text, seed):
    config = GPTConfig(text.vocab_size, text.longest, embed_dim=128, num_heads=4, num_layers=2)
    model = GPTModel(config, seed=seed)
    head_start(model, position_size=0.02, copying=0.5, seed=seed)
    optimizers = build_optimizers(model, RECIPE)
    while text.left:
        batch = text.stories(256)
        factor = learning_rate_at(text.progress, warmup=0.02, decay=0.6)
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = factor * group["peak"]
        training_step(model, optimizers, [batch], RECIPE.max_norm)
        yield model
