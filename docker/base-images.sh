#!/bin/sh
# Brings the images that Dockerfile and compose.yaml start from. Where no image registry can be reached, it makes
# them under the names that they have there: from Debian's packages, a LiveKit server and an InfluxDB binary.
# Grafana's cannot be made so: without it, `docker compose up master` has all that a run needs.
#
#   docker/base-images.sh [LIVEKIT_SERVER]
#
# LIVEKIT_SERVER: the binary; without one, what lk_users.local.server finds or builds. Images that are there
# already are left alone. To make them takes root and debootstrap. DEBIAN_MIRROR: another one than debootstrap's.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
say() { echo "base-images: $*" >&2; }
fail() { say "$*"; exit 12; }

python_image=$(sed -n 's/^FROM \(python:[^ ]*\).*/\1/p' "$here/Dockerfile" | head -n 1)
influx_image=$(sed -n 's/^ *image: \(influxdb:[^ ]*\)$/\1/p' "$here/compose.yaml")
server_image=$(sed -n 's/^ *image: \(livekit\/livekit-server:[^ ]*\)$/\1/p' "$here/compose.yaml")
# python:3.13-slim-trixie: the Debian whose Python that is.
suite=${python_image##*-}

docker version >/dev/null 2>&1 || fail "no Docker engine answers: start dockerd, or set DOCKER_HOST"
has() { docker image inspect "$1" >/dev/null 2>&1 || docker pull --quiet "$1" >/dev/null 2>&1; }
if has "$python_image" && has "$server_image" && has "$influx_image"; then
    exit 0
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

if ! has "$python_image"; then
    command -v debootstrap >/dev/null || fail "debootstrap is missing; on Debian: apt install debootstrap"
    [ "$(id -u)" = 0 ] || fail "debootstrap needs root"
    say "making $python_image from Debian $suite (about a minute and a half, only this once) …"
    # busybox: the server's image has its wget, which compose.yaml asks for the server's health.
    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates,busybox \
        "$suite" "$work/root" ${DEBIAN_MIRROR:+"$DEBIAN_MIRROR"} >"$work/log" 2>&1 ||
        fail "debootstrap $suite failed: $(tail -n 3 "$work/log" | tr '\n' ' ')"
    found=$(chroot "$work/root" python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    case $python_image in
        python:"$found"-*) ;;
        *) fail "Debian $suite has Python $found, and that is not $python_image" ;;
    esac
    ln -s busybox "$work/root/usr/bin/wget"
    (cd "$work/root" && rm -rf var/cache/apt/* var/lib/apt/lists/* var/log/* usr/share/doc/* usr/share/man/* \
        usr/share/locale/* && tar -c .) |
        docker import --change 'CMD ["python3"]' - "$python_image" >/dev/null
    rm -rf "$work/root"
    say "made $python_image"
fi

if ! has "$server_image"; then
    binary=${1:-$("${PYTHON:-python3}" -c '
from lk_users.local.server import find_or_build
from lk_users.local.stack import say_on_stderr
print(find_or_build(None, say_on_stderr))')}
    container=$(docker create "$python_image")
    # The official image keeps it there, too.
    docker cp "$binary" "$container:/livekit-server" >/dev/null
    docker commit --change 'ENTRYPOINT ["/livekit-server"]' --change 'CMD []' "$container" "$server_image" \
        >/dev/null
    docker rm "$container" >/dev/null
    version=$(docker run --rm "$server_image" --version)
    case $version in
        *" ${server_image##*:v}") ;;
        *) docker rmi "$server_image" >/dev/null; fail "$binary is $version, and not $server_image" ;;
    esac
    say "made $server_image"
fi

if ! has "$influx_image"; then
    binary=$("${PYTHON:-python3}" -c '
from lk_users.local.influxd import find_or_build
from lk_users.local.stack import say_on_stderr
print(find_or_build(say_on_stderr))')
    container=$(docker create "$python_image")
    docker cp "$binary" "$container:/usr/bin/influxd" >/dev/null
    docker commit --change 'CMD ["influxd"]' "$container" "$influx_image" >/dev/null
    docker rm "$container" >/dev/null
    say "made $influx_image"
fi
