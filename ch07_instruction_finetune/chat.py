"""Talk to your assistant in the terminal.

    make chat
    python ch07_instruction_finetune/chat.py --temperature 0.5

The assistant is the one that chapter 7 trains; if this machine has none yet, it is made first.
/temperature 0.8 sets how daring it is, /clear makes it forget, /quit leaves. Ctrl-C stops an
answer, and what was said so far stays in the conversation.
"""

from __future__ import annotations

import argparse
import os
import sys

from shared.previous_chapters import Chat, assistant_model, assistant_recipe

HELP = "/temperature 0.8 sets how daring it is, /clear makes it forget, /quit leaves."


def command(chat: Chat, line: str) -> str | None:
    """Do what a line that begins with / says; what to answer, or None to leave.

    Example:
        >>> command(chat, "/temperature 0.8")
        'temperature 0.8'
    """
    name, _, value = line.strip().partition(" ")
    if name in ("/quit", "/exit", "/bye"):
        return None
    if name == "/clear":
        chat.clear()
        return "All forgotten."
    if name == "/temperature":
        try:
            temperature = float(value)
        except ValueError:
            temperature = -1.0
        if not 0 <= temperature <= 10:
            return f"temperature {value.strip()!r}: expected a number from 0 (careful) to 10"
        chat.temperature = temperature
        return f"temperature {temperature:g}"
    return HELP


def answer(chat: Chat, text: str) -> None:
    """Print the answer as it comes; Ctrl-C stops it."""
    try:
        said = False
        for piece in chat.stream(text):
            print(piece, end="", flush=True)
            said = True
        print("" if said else "(It says nothing.)", flush=True)
    except KeyboardInterrupt:
        print(" … (stopped)", flush=True)
    except ValueError as error:
        print(error, flush=True)


def talk(chat: Chat) -> None:
    """Read lines and answer them, until /quit or the end of the input."""
    prompt = "\nYou: " if sys.stdin.isatty() else ""
    while True:
        try:
            line = input(prompt)
        except EOFError:
            break
        except KeyboardInterrupt:
            print("\n(/quit leaves)", flush=True)
            continue
        if line.strip().startswith("/"):
            said = command(chat, line)
            if said is None:
                break
            print(said, flush=True)
        elif line.strip():
            answer(chat, line)
    print("Goodbye!", flush=True)


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--temperature", type=float, default=0.0, help="0: the likeliest words")
    parser.add_argument("--top-p", type=float, default=1.0, help="only words this likely together")
    parser.add_argument("--system", default="", help="a message on how to behave")
    parser.add_argument("--start", default="story", help="the weights: story, gpt2, or a folder")
    parser.add_argument("--seed", type=int, default=0, help="of the dice, above temperature 0")
    options = parser.parse_args(arguments)
    sys.stdout.reconfigure(errors="replace")  # a terminal may lack a character
    try:
        model, tokenizer = assistant_model(assistant_recipe(start=options.start))
        style = {"temperature": options.temperature, "top_p": options.top_p, "seed": options.seed}
        chat = Chat(model, tokenizer, options.system, **style)
        if sys.stdin.isatty():
            print(f"Your assistant, {model.num_parameters():,} numbers. {HELP}")
        talk(chat)
    except BrokenPipeError:  # nobody reads any more: nothing to say
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main())
