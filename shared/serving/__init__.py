"""The web side of appendix G: a chat page and OpenAI's chat-completions API, on this machine.

The scheduling of many users' tokens is taught in the notebook; here is what carries it over HTTP.

>>> with serving(Service(model, tokenizer)) as address:   # a free port, in a thread
...     print(address)
"""

from shared.serving.app import chat_app
from shared.serving.running import listen, serve_forever, serving

__all__ = ["chat_app", "listen", "serve_forever", "serving"]
