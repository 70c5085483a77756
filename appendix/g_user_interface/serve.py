"""Your assistant behind a chat page and OpenAI's chat-completions API, on this machine only.

    make serve
    python appendix/g_user_interface/serve.py --port 8123

The assistant is the one that chapter 7 trains; if this machine has none yet, it is made first.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import closing

from shared.appendices import Service
from shared.previous_chapters import assistant_model, assistant_recipe
from shared.serving import serve_forever


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--port", type=int, default=8000, help="0: any that is free")
    parser.add_argument("--host", default="127.0.0.1", help="a loopback address; no other will do")
    parser.add_argument("--seats", type=int, default=16, help="answers that grow in one step")
    parser.add_argument("--start", default="story", help="the weights: story, gpt2, or a folder")
    options = parser.parse_args(arguments)
    try:
        model, tokenizer = assistant_model(assistant_recipe(start=options.start))
        with closing(Service(model, tokenizer, seats=options.seats)) as service:
            serve_forever(service, options.port, options.host)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
