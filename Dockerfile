# One image for every process of Tailrace: worker (as it is), migrate, beat, exporter, serve (another command).
#
#   docker build -t tailrace:0.1.0 .
#
# Two stages: what builds is not in what runs. Every dependency has a wheel, so neither needs a compiler, and a dependency
# without one stops the build (--only-binary).
ARG BASE_IMAGE=python:3.13-slim-bookworm

FROM ${BASE_IMAGE} AS build
WORKDIR /src
RUN python3 -m venv --without-pip /opt/tailrace
COPY pyproject.toml constraints.txt README.md LICENSE ./
# The dependencies alone, so that a change of the code leaves this layer as it is.
RUN python3 -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
x = p['optional-dependencies']; \
print(*p['dependencies'], *x['worker'], *x['serve'], sep='\n')" > requirements.txt \
 && python3 -m pip --python /opt/tailrace/bin/python install --no-cache-dir --only-binary :all: -c constraints.txt -r requirements.txt
COPY worker worker
COPY migrations migrations
# Then Tailrace itself; then what never runs: sources of compiled modules, and the tests of gevent.
RUN python3 -m pip --python /opt/tailrace/bin/python install --no-cache-dir --no-deps . \
 && find /opt/tailrace/lib -name '*.c' -delete -o -name '*.h' -delete -o -name '*.pyx' -delete -o -name '*.pxd' -delete \
 && rm -rf /opt/tailrace/lib/python*/site-packages/gevent/tests

FROM ${BASE_IMAGE}
LABEL org.opencontainers.image.title="Tailrace" \
      org.opencontainers.image.description="Durable ingestion of Trigger.dev run streams into Postgres" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin tailrace
COPY --from=build /opt/tailrace /opt/tailrace
# Nothing is written into the image, so its file system may be read-only.
ENV PATH=/opt/tailrace/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 TAILRACE_LOG_FORMAT=json
# A folder without a `tailrace` of its own: Celery looks for its app in the current one first.
WORKDIR /srv
USER 10001:10001
EXPOSE 9464 8787
STOPSIGNAL SIGTERM
# Alive, not ready: a worker whose database is away waits for it and must not be restarted. No curl in the image, and Python is
# there. Other commands have no such port: switch it off for them, as compose.yaml does.
HEALTHCHECK --interval=30s --timeout=10s --start-period=30s --retries=3 \
    CMD ["python3", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:9464/live', timeout=5)"]
CMD ["tailrace", "worker", "--metrics-host", "0.0.0.0", "--metrics-port", "9464"]
