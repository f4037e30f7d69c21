"""The Flask site of the documentation as the tests deploy it: its Provider is used as soon as the module is loaded."""

from __future__ import annotations

import json
import os
from typing import Any

from flask import Response, request

from docs.examples import flask_site
from pixir_sync import Provider
from tests.deployments.servers import WARMED

app = flask_site.app
provider = flask_site.provider = Provider(transport=os.environ["SITE_TRANSPORT"])
provider.complete(WARMED, session="warm")


@app.after_request
def signed(response: Response) -> Response:
    response.headers["X-Pid"] = str(os.getpid())
    return response


@app.post("/turn")
def turn() -> dict[str, Any]:
    """A turn of a conversation that the client remembers: what is to be appended to it, and how much was sent."""
    result = provider.complete(json.loads(request.form["history"]), session=request.form["session"])
    facts = result.provider_metadata
    return {
        "said": result.text,
        "items": result.output_items,
        "sent": facts["input_items_sent"],
        "continued": facts["used_previous_response_id"],
    }
