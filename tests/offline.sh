#!/bin/sh
# Run a command with the network cut: tests must need nothing but what is installed.
# Linux: in a network namespace of its own that has only the loopback device. Elsewhere: behind a
# proxy that does not exist, which stops every HTTP library; loopback stays reachable.
if unshare -rn sh -c 'ip link set lo up' 2>/dev/null; then
    exec unshare -rn sh -c 'ip link set lo up && exec "$@"' sh "$@"
fi
if unshare -n sh -c 'ip link set lo up' 2>/dev/null; then
    exec unshare -n sh -c 'ip link set lo up && exec "$@"' sh "$@"
fi
nowhere=http://127.0.0.1:9
export http_proxy=$nowhere https_proxy=$nowhere HTTP_PROXY=$nowhere HTTPS_PROXY=$nowhere
export no_proxy=127.0.0.1,localhost NO_PROXY=127.0.0.1,localhost
exec "$@"
