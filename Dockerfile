# A router or an endpoint picker that needs no root, and writes nothing but its cache of machine
# code: docker build -t balanceroute:0.1.0 .
FROM python:3.11-slim AS build
WORKDIR /src
COPY requirements/run.txt requirements/build.txt requirements/
RUN python -m venv /opt/balanceroute \
    && /opt/balanceroute/bin/pip install --no-cache-dir --require-hashes \
        -r requirements/run.txt -r requirements/build.txt
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY src src
RUN /opt/balanceroute/bin/pip install --no-cache-dir --no-deps --no-build-isolation .

FROM python:3.11-slim
COPY --from=build /opt/balanceroute /opt/balanceroute
# Compiled once, here; a processor of another kind compiles anew at its start.
RUN NUMBA_CACHE_DIR=/opt/balanceroute/cache /opt/balanceroute/bin/python -c \
        "from balanceroute.live.warm import warm; warm('br_auto', num_ranks=2, costs=None)" \
    && mkdir -p /var/cache/balanceroute && chown 65532:65532 /var/cache/balanceroute
ENV PATH=/opt/balanceroute/bin:$PATH NUMBA_CACHE_DIR=/var/cache/balanceroute PYTHONUNBUFFERED=1
USER 65532:65532
EXPOSE 30000 9002
ENTRYPOINT ["balanceroute"]
