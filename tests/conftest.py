"""For all unit tests: no window opens, nothing outside this machine is reached."""

from __future__ import annotations

import ipaddress
import os
import socket

os.environ["MPLBACKEND"] = "agg"

import matplotlib as mpl
import pytest

_connect = socket.socket.connect
_look_up = socket.getaddrinfo


def _is_here(host: object) -> bool:
    host = host.decode() if isinstance(host, bytes) else host
    if host in (None, "", "localhost"):
        return True
    try:
        return ipaddress.ip_address(str(host)).is_loopback
    except ValueError:
        return False


def _connect_here(self, address):
    if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_here(address[0]):
        raise OSError(f"the tests reach no network, and this one asked for {address[0]}")
    return _connect(self, address)


def _look_up_here(host, *arguments, **options):
    if not _is_here(host):
        raise socket.gaierror(f"the tests reach no network, and this one asked for {host}")
    return _look_up(host, *arguments, **options)


@pytest.fixture(autouse=True, scope="session")
def network_cut():
    """Only loopback addresses can be reached: a test that needs the network fails here, too."""
    patch = pytest.MonkeyPatch()
    patch.setattr(socket.socket, "connect", _connect_here)
    patch.setattr(socket, "getaddrinfo", _look_up_here)
    yield
    patch.undo()


@pytest.fixture(autouse=True)
def own_style():
    """No test inherits the figure style that one before it has set."""
    with mpl.rc_context():
        mpl.rcdefaults()
        yield
