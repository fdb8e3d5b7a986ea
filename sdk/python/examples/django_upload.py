"""A Django site whose uploads leave nothing behind, whatever happens to its workers.

    python django_upload.py runserver

Small uploads stay in memory, larger ones go to a lease of the worker's process. What is too large is refused before it is
written. The site keeps what it wants by `persist`: at no time is there half a file.
"""

import os
import sys
from typing import Any

import django
from django.conf import settings
from django.core.files.uploadedfile import UploadedFile
from django.core.files.uploadhandler import FileUploadHandler, StopUpload
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path

from scratchd import Replace, SpooledUpload, UploadTooLarge

MEMORY_MAX = 1 << 20
SIZE_MAX = 100 << 20
KEPT_IN = os.environ.get("KEPT_IN", ".")


class LeaseUploadHandler(FileUploadHandler):
    """In the place of Django's two, for FILE_UPLOAD_HANDLERS."""

    upload: SpooledUpload

    def new_file(self, *args: Any, **kwargs: Any) -> None:
        super().new_file(*args, **kwargs)
        self.upload = SpooledUpload(max_memory=MEMORY_MAX, max_size=SIZE_MAX)

    def receive_data_chunk(self, raw_data: bytes, start: int) -> None:
        try:
            self.upload.write(raw_data)
        except UploadTooLarge:
            self.upload.close()
            # The rest of the request is read and thrown away, so that there is somebody to answer.
            raise StopUpload(connection_reset=False) from None

    def file_complete(self, file_size: int) -> UploadedFile | None:
        if self.upload.closed:
            return None
        self.upload.seek(0)
        return UploadedFile(self.upload, self.file_name, self.content_type, file_size, self.charset, self.content_type_extra)

    def upload_interrupted(self) -> None:
        self.upload.close()


def receive(request: HttpRequest) -> HttpResponse:
    """Keeps the file of a form's field `file`."""
    sent = request.FILES.get("file")
    if sent is None:
        return JsonResponse({"error": f"no file of at most {SIZE_MAX} bytes"}, status=413)
    # Django has taken directories out of the name. It closes the file at the request's end.
    kept = sent.file.persist(os.path.join(KEPT_IN, sent.name), Replace.ALWAYS)
    return JsonResponse({"kept": kept, "size": sent.size}, status=201)


urlpatterns = [path("upload", receive)]

settings.configure(
    ROOT_URLCONF=__name__,
    SECRET_KEY="of no use: there are neither sessions nor cookies",
    ALLOWED_HOSTS=["localhost", "127.0.0.1", "testserver"],
    FILE_UPLOAD_HANDLERS=[f"{__name__}.LeaseUploadHandler"],
)
django.setup()

if __name__ == "__main__":
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)
