"""Answer constant bytes with aiohttp and uvloop: what the framework can do at most.

`limit.json` in the working folder holds the status, the headers and the body of both
answers, as the measured server gave them.
"""

import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import uvloop
from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.Response]]


def constant(answer: dict[str, Any], read_body: bool) -> Handler:
    """Return a handler that always gives one answer."""
    status, headers = answer["status"], answer["headers"]
    body = answer["body"].encode()

    async def handler(request: web.Request) -> web.Response:
        if read_body:
            await request.read()
        return web.Response(status=status, headers=headers, body=body)

    return handler


def main() -> None:
    """Serve on PORT of the loopback interface."""
    answers = json.loads(Path("limit.json").read_text())
    app = web.Application()
    path = "/api/v1/purchase/{customer_id}"
    app.router.add_get(path, constant(answers["list"], read_body=False))
    app.router.add_post(path, constant(answers["add"], read_body=True))
    web.run_app(
        app,
        host="127.0.0.1",
        port=int(os.environ["PORT"]),
        access_log=None,
        print=None,
        loop=uvloop.new_event_loop(),
    )


if __name__ == "__main__":
    main()
