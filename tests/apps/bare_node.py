"""One node without a web server, on the event loop that its argument names, with two clients.

One client acknowledges what it is asked, the other never does.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import anyio
from control import NAME, OPTIONS, URI

from harness import node


async def main() -> None:
    options = dict(OPTIONS)
    async with node(URI, options.pop("prefix"), **options) as made:
        if options.get("wire") != "legacy":
            made.manager.on_server_side("who")(lambda: NAME)

        @made.manager.custom_hook
        def hook(data: Any) -> Any:
            if isinstance(data, dict):
                # as busy as can be: the event loop stands still
                time.sleep(data["busy"])
            return [NAME, data]

        answering, mute = await made.client(rooms=["far"]), await made.client(rooms=["mute"])
        # as the nodes with a web server say it
        sys.stdout.write(f"running on http://{answering.sid}/{mute.sid}\n")
        sys.stdout.flush()
        while True:
            await answering.answer(NAME)


if __name__ == "__main__":
    anyio.run(main, backend=sys.argv[1])
