#!/bin/sh
# Starts nginx (1.22 to 1.31) without privileges, on a file system of which only two directories can be written:
# renders the configuration, and makes a self-signed certificate at the first start when there is none.
# Its settings are variables of the environment; `start.sh -t` only checks.
#
#   GATEWAY                      host:port of the gateway; a name is asked for again and again     gateway:8000
#   TLS_DIR                      fullchain.pem and privkey.pem are looked for, or made, here       /var/lib/penstock/tls
#   NGINX_WORK                   configuration, pid, temporary files                               /tmp/nginx
#   TLS_LISTEN, HTTP_LISTEN      the second answers health checks and redirects; "none": not at all   8443, 8080
#   MAX_BODY                     keep it at server.max_body_bytes of gateway.yaml                  10m
#   MAX_MEDIA                    keep it at server.max_media_body_bytes of gateway.yaml            26m
#   MAX_FILE                     a little more than batch.max_file_bytes of gateway.yaml            101m
#   READ_TIMEOUT                 longer than timeouts.total_s of gateway.yaml                      660s
#   PER_IP_REQUESTS_PER_SECOND, PER_IP_BURST, PER_IP_CONNECTIONS                                   500, 3000, 1000
#   PUBLIC_HOST                  host[:port] in redirects and in the made certificate; else the client's own
#   ERROR_LOG_LEVEL              "error" and "warn" say more, and quote query strings               crit
#   ACCESS_LOG, NGINX_WORKERS, NGINX_BIN (the executable), RESOLVER (a DNS server)                 "/dev/stdout json", auto
set -eu
here=$(cd "$(dirname "$0")" && pwd)
nginx=${NGINX_BIN:-nginx}
public=${PUBLIC_HOST:-}
unset NGINX  # nginx would take it for a list of sockets
tls=${TLS_DIR:-/var/lib/penstock/tls}
work=${NGINX_WORK:-/tmp/nginx}
gateway=${GATEWAY:-gateway:8000}
export TZ=UTC
mkdir -p "$work" "$tls"

if [ ! -s "$tls/fullchain.pem" ]; then
    names=DNS:localhost,IP:127.0.0.1
    [ -z "$public" ] || names="DNS:${public%:*},$names"
    command -v openssl > /dev/null || { echo "nginx: no certificate in $tls, and no openssl to make one" >&2; exit 1; }
    (umask 077; openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -noenc -days 825 -subj /CN=penstock \
        -addext "subjectAltName=$names" -keyout "$tls/privkey.pem" -out "$tls/fullchain.pem" 2> /dev/null) ||
        { echo "nginx: no certificate in $tls, and none can be made there" >&2; exit 1; }
    chmod 644 "$tls/fullchain.pem"
    echo "nginx: made a self-signed certificate in $tls" >&2
fi

version=$("$nginx" -v 2>&1 | sed -e 's|.*/||' -e 's| .*||')
at_least() { [ "$(printf '%s\n%s\n' "$1" "$version" | sort -V | head -n 1)" = "$1" ]; }

if at_least 1.25.1; then
    listen="listen ${TLS_LISTEN:-8443} ssl; http2 on;"
else
    listen="listen ${TLS_LISTEN:-8443} ssl http2;"
fi

# Gateways are added, replaced and taken away while nginx runs. Before 1.27.3 a name in `upstream` is looked up once,
# at start; there a variable makes nginx look it up anew, at the price of a connection for each request.
# A gateway that failed is left out for two seconds: by then its name has been looked up again. A call goes to the
# gateway that has the fewest; before 1.27.3 to each in turn.
resolver=${RESOLVER:-$(awk '$1 == "nameserver" { print ($2 ~ /:/) ? "[" $2 "]" : $2; exit }' /etc/resolv.conf)}
kept="keepalive 256; keepalive_timeout 5s;"
pass="proxy_pass http://gateway;"
case $gateway in
    localhost:* | [0-9]*.[0-9]*.[0-9]*.[0-9]*:* | \[*) upstream="upstream gateway { server $gateway; $kept }" ;;
    *)
        dns="resolver $resolver valid=2s; resolver_timeout 3s;"
        if at_least 1.27.3; then
            upstream="$dns upstream gateway { zone gateway 256k; least_conn; server $gateway resolve fail_timeout=2s; $kept }"
        else
            upstream=$dns
            pass="set \$gateway $gateway; proxy_pass http://\$gateway;"
        fi
        ;;
esac

without_plain=
[ "${HTTP_LISTEN:-8080}" != none ] || without_plain='/# Begin of plain HTTP/,/# End of plain HTTP/d'

others=""
for protocol in fastcgi uwsgi scgi; do
    "$nginx" -V 2>&1 | grep -q -e "--without-http_${protocol}_module" || others="$others ${protocol}_temp_path \"$work/$protocol\";"
done

# As many descriptors as the system allows: a stream takes two.
files=$(ulimit -Hn)
case $files in unlimited | ??????*) files=65536 ;; esac

sed -e "s|@FILES@|$files|" -e "s|@WORKERS@|${NGINX_WORKERS:-auto}|" -e "s|@WORK@|$work|" -e "s|@HERE@|$here|" \
    -e "s|@OTHER_TEMP_PATHS@|$others|" -e "s|@ERROR_LOG_LEVEL@|${ERROR_LOG_LEVEL:-crit}|" \
    -e "s|@ACCESS_LOG@|${ACCESS_LOG:-/dev/stdout json}|" -e "s|@TLS@|$tls|" -e "s|@MAX_BODY@|${MAX_BODY:-10m}|" \
    -e "s|@MAX_FILE@|${MAX_FILE:-101m}|" -e "s|@MAX_MEDIA@|${MAX_MEDIA:-26m}|" \
    -e "s|@REQUESTS_PER_SECOND@|${PER_IP_REQUESTS_PER_SECOND:-500}|" -e "s|@BURST@|${PER_IP_BURST:-3000}|" \
    -e "s|@CONNECTIONS@|${PER_IP_CONNECTIONS:-1000}|" -e "s|@READ_TIMEOUT@|${READ_TIMEOUT:-660s}|" \
    -e "s|@UPSTREAM@|$upstream|" -e "s|@LISTEN@|$listen|" -e "s|@PROXY_PASS@|$pass|" \
    -e "$without_plain" -e "s|@HTTP_LISTEN@|${HTTP_LISTEN:-8080}|" -e "s|@PUBLIC_HOST@|${public:-\$host}|" \
    "$here/nginx.conf.template" > "$work/nginx.conf"
[ "${1:-}" != -t ] || exec "$nginx" -t -c "$work/nginx.conf"
exec "$nginx" -c "$work/nginx.conf" -g "daemon off;"
