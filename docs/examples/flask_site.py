"""A Flask site with one Provider for the process: an answer when it is there, and an answer as it is written."""

from __future__ import annotations

from collections.abc import Iterator

from flask import Flask, Response, request

from pixir_sync import PixirError, Provider

app = Flask(__name__)
provider = Provider()  # opens nothing; the threads of a worker share it, and each worker has connections of its own


@app.errorhandler(PixirError)
def failed(error: PixirError) -> tuple[dict[str, str], int]:
    return {"error": error.kind}, 502


@app.post("/ask")
def ask() -> dict[str, str]:
    return {"said": provider.complete(request.form["text"], session=request.form.get("session")).text}


@app.post("/stream")
def stream() -> Response:
    answer = provider.stream(request.form["text"], session=request.form.get("session"))

    def pieces() -> Iterator[str]:
        with answer:  # the server closes this generator where the client has left; that ends the call, too
            yield from answer.text_stream

    return Response(pieces(), mimetype="text/plain")
