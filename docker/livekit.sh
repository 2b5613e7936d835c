#!/bin/sh
# Starts the LiveKit server of compose.yaml with keys of its own. They lie in a volume in memory: made with
# the first container that uses it, gone with the last.
set -eu
umask 022
if [ ! -s /keys/server ]; then
    hex() { od -An -v -tx1 -N "$1" /dev/urandom | tr -d ' \n'; }
    key="API$(hex 6)"
    secret=$(hex 32)
    printf '%s' "$key" >/keys/key
    printf '%s' "$secret" >/keys/secret
    # The server refuses a file that others can read.
    (umask 077 && printf '%s: %s\n' "$key" "$secret" >/keys/server)
fi
exec /livekit-server "$@"
