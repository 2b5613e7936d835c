#!/bin/sh
# Keys may lie in files (LIVEKIT_API_KEY_FILE, LIVEKIT_API_SECRET_FILE, INFLUX_TOKEN_FILE): then they are in nobody's
# configuration, only in this process's environment.
set -eu
for name in LIVEKIT_API_KEY LIVEKIT_API_SECRET INFLUX_TOKEN; do
    eval "file=\${${name}_FILE:-}"
    if [ -n "$file" ]; then
        value=$(cat "$file")
        export "$name=$value"
    fi
done
exec "$@"
