#!/bin/sh
# A secret may lie in a file (its variable and _FILE, as LIVEKIT_API_KEY_FILE): then it is in nobody's configuration,
# only in this process's environment. Compose makes no file of an empty one.
set -eu
for name in LIVEKIT_API_KEY LIVEKIT_API_SECRET LK_SESSION_AUTHORIZATION LK_SESSION_HEADERS INFLUX_TOKEN; do
    eval "file=\${${name}_FILE:-}"
    if [ -e "$file" ]; then
        value=$(cat "$file")
        export "$name=$value"
    fi
done
exec "$@"
