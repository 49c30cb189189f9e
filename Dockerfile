FROM python:3.13-slim

WORKDIR /app
COPY requirements-run.txt .
RUN pip install --no-cache-dir --require-hashes -r requirements-run.txt \
    && useradd --create-home --uid 10001 shop \
    && install --directory --owner=shop --group=shop --mode=700 /data
COPY server.py handlers.py db.py ./
COPY api api
COPY console console
COPY queries queries
COPY runtime runtime
COPY storage storage

# Number 10001 is shop; a new named volume takes its owner from /data in the image.
USER 10001
VOLUME /data

# Beyond loopback the server asks for API_TOKENS_FILE or ALLOW_ANONYMOUS=1.
ENV HOST=0.0.0.0 \
    PORT=8080 \
    DATABASE_URL=sqlite:////data/db.sqlite3 \
    PYTHONUNBUFFERED=1
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=5s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen('http://127.0.0.1:' + os.environ['PORT'] + '/readyz', timeout=4)"]
CMD ["python", "server.py"]
