#!/bin/bash
# The InfluxDB of compose.yaml, set up at its first start with a token of its own. It lies in a volume, for who
# writes and who reads, and in nobody's configuration.
#
#   influxdb.sh          starts the database
#   influxdb.sh ready    does it take the token?
set -eu
data=${DATA:-/data} token=${TOKEN_FILE:-/influx/token} port=${PORT:-8086}
hex() { od -An -v -tx1 -N "$1" /dev/urandom | tr -d ' \n'; }
# METHOD PATH [HEADER] [BODY]: the first line of the answer. Neither curl nor wget is in every image.
call() {
    exec 3<>"/dev/tcp/127.0.0.1/$port"
    printf '%s %s HTTP/1.0\r\n%sContent-Length: %d\r\n\r\n%s' "$1" "$2" "${3:+$3$'\r\n'}" "${#4}" "$4" >&3
    head -n 1 <&3
}
ready() {
    [ -s "$token" ] &&
        call GET "/api/v2/buckets?name=lk-users" "Authorization: Token $(cat "$token")" "" 2>/dev/null |
        grep -q ' 200 '
}
if [ "${1:-}" = ready ]; then
    ready
    exit
fi
umask 022
[ -s "$token" ] || hex 32 >"$token"
(
    until call GET /health "" "" 2>/dev/null | grep -q ' 200 '; do sleep 0.2; done
    # Refused where it was done at an earlier start.
    ready || call POST /api/v2/setup "Content-Type: application/json" "{\"username\": \"lk-users\", \"password\": \
\"$(hex 24)\", \"org\": \"lk-users\", \"bucket\": \"lk-users\", \"token\": \"$(cat "$token")\"}" >/dev/null
) &
exec influxd --reporting-disabled --log-level=warn --http-bind-address=":$port" \
    --bolt-path="$data/influxd.bolt" --sqlite-path="$data/influxd.sqlite" --engine-path="$data/engine"
