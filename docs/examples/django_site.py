"""A Django site in one file: its settings, its view and its URLs."""

from __future__ import annotations

from functools import cache

from django.http import HttpRequest, JsonResponse
from django.urls import path
from django.views.decorators.http import require_POST

from pixir_sync import PixirError, Provider

# Settings.

SECRET_KEY = "a key for tests"
ALLOWED_HOSTS = ["*"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
ROOT_URLCONF = "django_site"


# The view.


@cache
def provider() -> Provider:
    """The one Provider of the process, which its threads share; made with the first request, not with the import."""
    return Provider()


@require_POST
def summarise(request: HttpRequest) -> JsonResponse:
    try:
        result = provider().complete(request.POST["text"], instructions="Summarise in one line.")
    except PixirError as error:
        return JsonResponse({"error": error.kind}, status=502)
    return JsonResponse({"summary": result.text})


# The URLs.

urlpatterns = [path("summarise", summarise)]
