"""Two turns of a session: the second sends only what is new."""

from pixir_sync import Provider, user
from pixir_sync.local import LocalServer

with LocalServer() as server, Provider(model=server.model, base_url=server.base_url, api_key=server.api_key) as provider:
    history = []
    for question in ("Good morning", "What did I say?"):
        history.append(user(question))
        result = provider.complete(history, session="chat-42")
        history += result.output_items
        facts = result.provider_metadata
        print(result.text, "|", facts["input_items_sent"], "of", facts["input_items_total"], "items sent")
    provider.drop_connections()  # as a network may do at any time
    history.append(user("And now?"))
    result = provider.complete(history, session="chat-42")
    print(result.text, "|", result.provider_metadata["continuation_reset_reason"])
