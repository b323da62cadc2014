#!/usr/bin/env bash
# Makes stand-ins for the official base images out of Debian's packages, for machines that can pull none:
#   penstock-test/python  penstock-test/redis  penstock-test/nginx
# Each has what our files rely on in the official one: the program, its user and number, the data directory's owner.
# Needs root, debootstrap and a running engine (DOCKER_HOST); about two minutes. What exists already is kept.
#
# pip inside the builds has to reach the package index as pip on this machine does: the authorities that this machine
# trusts and its pip settings are copied into the python images, from wherever they are configured here.
set -euo pipefail
export DOCKER_BUILDKIT=0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

has() { docker image inspect "penstock-test/$1" > /dev/null 2>&1; }

build() { # name: builds $work/$1 quietly; shows the log only when it fails
    has "$1" && return
    docker build --quiet --network host --tag "penstock-test/$1" "$work/$1" > "$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }
}

authorities() {
    local file
    for file in "${PIP_CERT:-}" "$(python3 -m pip config get global.cert 2> /dev/null || true)" \
        "${SSL_CERT_FILE:-}" /etc/ssl/certs/ca-certificates.crt; do
        if [ -f "$file" ]; then cat "$file"; return; fi
    done
}

pip_settings() {
    local name value
    echo "[global]"
    echo "cert = /etc/ssl/certs/ca-certificates.crt"
    for name in index-url extra-index-url trusted-host proxy; do
        value=$(python3 -m pip config get "global.$name" 2> /dev/null || true)
        local variable="PIP_${name//-/_}"
        variable=${variable^^}
        value=${!variable:-$value}
        case $value in
            "" | *file:* | /*) ;; # a folder of this machine means nothing in there
            *) echo "$name = $value" ;;
        esac
    done
}

if ! has debian; then
    debootstrap --variant=minbase --include=ca-certificates bookworm "$work/debian" > "$work/log" 2>&1 || { tail -20 "$work/log" >&2; exit 1; }
    rm -rf "$work/debian/var/cache/apt/archives"/*.deb "$work/debian/var/lib/apt/lists"/*
    tar -C "$work/debian" -c . | docker import - penstock-test/debian > /dev/null
fi

install='apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends'
clean='rm -rf /var/lib/apt/lists/* /usr/share/doc /usr/share/man'
mkdir "$work"/{python,redis,nginx}

authorities > "$work/python/ca-certificates.crt"
pip_settings > "$work/python/pip.conf"
cat > "$work/python/Dockerfile" << DOCKERFILE
FROM penstock-test/debian
RUN $install python3 python3-venv && $clean && ln -s python3 /usr/bin/python
COPY ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY pip.conf /etc/pip.conf
DOCKERFILE
build python

cat > "$work/redis/Dockerfile" << DOCKERFILE
FROM penstock-test/debian
RUN groupadd --gid 999 redis && useradd --uid 999 --gid 999 redis
RUN $install redis-server && $clean && install -d -o redis -g redis /data
VOLUME /data
WORKDIR /data
DOCKERFILE
build redis

cat > "$work/nginx/Dockerfile" << DOCKERFILE
FROM penstock-test/debian
RUN groupadd --gid 101 nginx && useradd --uid 101 --gid 101 --home-dir /nonexistent nginx
RUN $install nginx openssl gettext-base && $clean
STOPSIGNAL SIGQUIT
DOCKERFILE
build nginx
docker image ls --format '{{.Repository}} {{.Size}}' 'penstock-test/*'
