"""A Starlette application whose uploads leave nothing behind, whatever happens to it.

    uvicorn starlette_upload:app

    curl -T file http://127.0.0.1:8000/file

Small uploads stay in memory, larger ones go to a lease of the process. What is too large is refused before it is written. The
application keeps what it wants by `persist`: at no time is there half a file.
"""

import os

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from scratchd import Replace, SpooledUpload, UploadTooLarge

MEMORY_MAX = 1 << 20
SIZE_MAX = 100 << 20
KEPT_IN = os.environ.get("KEPT_IN", ".")


async def receive(request: Request) -> Response:
    """Keeps a request's body under the name in its path, which has no `/`."""
    # However this ends, with the client gone in the middle, say: what was not persisted is removed.
    with SpooledUpload(max_memory=MEMORY_MAX, max_size=SIZE_MAX) as upload:
        try:
            async for chunk in request.stream():
                await run_in_threadpool(upload.write, chunk)
        except UploadTooLarge as error:
            return JSONResponse({"error": str(error)}, status_code=413)
        target = os.path.join(KEPT_IN, os.path.basename(request.path_params["name"]))
        # To another file system it is copied, which may take a while.
        kept = await run_in_threadpool(upload.persist, target, Replace.ALWAYS)
        return JSONResponse({"kept": kept, "size": upload.size}, status_code=201)


app = Starlette(routes=[Route("/{name}", receive, methods=["PUT"])])
