"""A small GPT-2 and the loop of most first scripts: AdamW as PyTorch sets it, windows, dropout.

Nothing here is slow on purpose. It is chapter 4's model, at the size of chapter 5's.
"""

import torch

from shared.previous_chapters import GPTConfig, GPTModel, next_token_loss

TOKENS = 262_144


def train(text, seed):
    config = GPTConfig(
        text.vocab_size,
        text.longest,
        embed_dim=128,
        num_heads=4,
        num_layers=2,
        dropout=0.1,
    )
    model = GPTModel(config, seed=seed)
    optimizer = torch.optim.AdamW(model.parameters())
    while text.left:
        inputs, targets = text.windows(rows=8, length=128)
        loss = next_token_loss(model, inputs, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield model
