"""Starting and stopping the server: on loopback, and nowhere else."""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from shared.serving.app import Answers, chat_app

PATIENCE = 10  # seconds to start, and to stop


def listen(port: int = 0, host: str = "127.0.0.1") -> socket.socket:
    """A socket on this machine's loopback address; port 0 takes a free one.

    Raises:
        ValueError: the host is not a loopback address, or the port is none.
        OSError: the port is taken.
    """
    try:
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        address = None
    if address is None or not address.is_loopback:
        raise ValueError(
            f"host={host!r}: this server has no passwords, so it listens only to its own machine. "
            "Give 127.0.0.1, ::1 or localhost."
        )
    if not 0 <= port <= 65535:
        raise ValueError(f"port={port}, expected 1 to 65535, or 0 for any free one")
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    opened = socket.socket(family, socket.SOCK_STREAM)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind((str(address), port))
        opened.listen(512)
    except OSError as error:
        opened.close()
        raise OSError(
            f"port {port} cannot be used ({error.strerror}): is a server running already? "
            "Give another one, or 0 for any that is free."
        ) from None
    return opened


def address_of(opened: socket.socket) -> str:
    """The address to type into a browser."""
    host, port = opened.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _server(service: Answers) -> uvicorn.Server:
    settings = {"log_level": "error", "access_log": False, "lifespan": "off", "ws": "none"}
    settings |= {"timeout_graceful_shutdown": 2, "timeout_keep_alive": 5, "server_header": False}
    return uvicorn.Server(uvicorn.Config(chat_app(service), http="h11", loop="asyncio", **settings))


@contextmanager
def serving(service: Answers, port: int = 0, host: str = "127.0.0.1") -> Iterator[str]:
    """Serve in a thread while the block runs; gives the address, and closes the port afterwards.

    Raises:
        ValueError, OSError: as `listen`.
        RuntimeError: the server does not start.
    """
    opened, server = listen(port, host), _server(service)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]}, daemon=True)
    thread.start()
    deadline = time.monotonic() + PATIENCE
    try:
        while not server.started:
            if time.monotonic() > deadline or not thread.is_alive():
                raise RuntimeError("the server did not start")
            time.sleep(0.01)
        yield address_of(opened)
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
        opened.close()


def serve_forever(service: Answers, port: int, host: str = "127.0.0.1") -> None:
    """Serve in this thread until Ctrl-C. Raises as `listen`."""
    opened = listen(port, host)
    try:
        print(f"Chat: {address_of(opened)}   API: {address_of(opened)}/v1   (Ctrl-C stops)")
        _server(service).run(sockets=[opened])
    except KeyboardInterrupt:
        pass
    finally:
        opened.close()
    print("Stopped.")
