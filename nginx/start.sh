#!/bin/sh
# Starts nginx without privileges on a read-only file system: renders the configuration into /tmp, and makes a
# self-signed certificate at the first start when there is none. Everything it needs to know is in the environment.
#
#   GATEWAY           host:port of the gateway; the name is asked for again every few seconds     gateway:8000
#   TLS_DIR           fullchain.pem and privkey.pem are looked for, or made, here                 /var/lib/penstock/tls
#   HTTP_LISTEN, TLS_LISTEN                                                                       8080, 8443
#   MAX_BODY          keep it at server.max_body_bytes of gateway.yaml                            10m
set -eu
here=$(dirname "$0")
tls=${TLS_DIR:-/var/lib/penstock/tls}
work=${NGINX_WORK:-/tmp/nginx}
mkdir -p "$work"

if [ ! -s "$tls/fullchain.pem" ]; then
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -noenc -days 825 -subj /CN=penstock \
        -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout "$tls/privkey.pem" -out "$tls/fullchain.pem" 2> /dev/null
    chmod 600 "$tls/privkey.pem"
    echo "nginx: made a self-signed certificate in $tls" >&2
fi

resolver=$(awk '$1 == "nameserver" { print ($2 ~ /:/) ? "[" $2 "]" : $2; exit }' /etc/resolv.conf)
sed -e "s|@WORK@|$work|g" -e "s|@TLS@|$tls|g" -e "s|@RESOLVER@|${RESOLVER:-$resolver}|g" \
    -e "s|@GATEWAY@|${GATEWAY:-gateway:8000}|g" -e "s|@HTTP_LISTEN@|${HTTP_LISTEN:-8080}|g" \
    -e "s|@TLS_LISTEN@|${TLS_LISTEN:-8443}|g" -e "s|@MAX_BODY@|${MAX_BODY:-10m}|g" \
    "$here/nginx.conf.template" > "$work/nginx.conf"
exec nginx -c "$work/nginx.conf" -g "daemon off;"
