# Penstock's image. One for gateway, ledger and worker: the command says which (docker-compose.yml).
# Any Debian-like image with Python 3.11 to 3.14 will do as a base; the classic builder and BuildKit both build it.
ARG PYTHON_IMAGE=python:3.11-slim

FROM ${PYTHON_IMAGE} AS build
COPY requirements.txt /tmp/requirements.txt
# Nothing installs packages at run time, and nobody runs the libraries' own tests there.
RUN python3 -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes --only-binary :all: \
        -r /tmp/requirements.txt \
    && /opt/venv/bin/pip uninstall --yes --quiet pip setuptools \
    && rm -rf /opt/venv/lib/python3*/site-packages/gevent/tests /opt/venv/lib/python3*/site-packages/psutil/tests
COPY app /srv/penstock/app
COPY config /srv/penstock/config
COPY gunicorn.conf.py deploy/image/health.py deploy/image/make_secrets.py /srv/penstock/
# The root file system is read-only: what is not compiled now would be compiled at every start.
RUN /opt/venv/bin/python -m compileall -q --invalidation-mode unchecked-hash /srv/penstock

FROM ${PYTHON_IMAGE}
# By number, so that an orchestrator can see that it is not root. The directories give new volumes their owner.
RUN groupadd --gid 10001 penstock \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin penstock \
    && install -d -o 10001 -g 10001 -m 0700 /data /run/penstock /run/grafana /run/tls
COPY --from=build /opt/venv /opt/venv
COPY --from=build /srv/penstock /srv/penstock
ENV PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    GATEWAY_ENV=production \
    DATA_DIR=/data \
    HOST=0.0.0.0 \
    PORT=8000
WORKDIR /srv/penstock
USER 10001:10001
VOLUME /data
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["python", "health.py", "gateway"]
CMD ["gunicorn", "-c", "gunicorn.conf.py", "app:create_app()"]

# Last, since they change with every build.
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG CREATED=unknown
LABEL org.opencontainers.image.title="Penstock" \
      org.opencontainers.image.description="LLM gateway: keys, limits, prices and an exact ledger in front of every vendor" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
