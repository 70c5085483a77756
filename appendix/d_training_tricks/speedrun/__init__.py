"""The laptop speedrun: reach one loss with as few tokens as you can. README.md has the rules."""
