"""A Django site in one file, with a Provider as a module global: the tests run it, and copies of it."""

from __future__ import annotations

import os
from collections.abc import Iterator

from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.urls import path

from pixir_sync import Provider

SECRET_KEY = "a key for tests"
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = __name__
VERSION = "1"

provider = Provider(transport=os.environ.get("SITE_TRANSPORT", "auto"))


def ask(request: HttpRequest) -> HttpResponse:
    answer = provider.complete(request.POST["text"], session=request.POST.get("session"))
    return HttpResponse(answer.text, headers={"X-Pid": str(os.getpid()), "X-Version": VERSION})


def stream(request: HttpRequest) -> StreamingHttpResponse:
    answer = provider.stream(request.POST["text"], session=request.POST.get("session"))

    def pieces() -> Iterator[str]:
        with answer:
            yield from answer.text_stream

    return StreamingHttpResponse(pieces(), content_type="text/plain")


urlpatterns = [path("ask", ask), path("stream", stream)]
