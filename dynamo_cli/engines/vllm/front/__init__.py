"""The processor's half of vLLM: request bodies to engine requests, engine outputs to answers.

Bodies as clients sent them and the outputs of engine steps come in. Token ids with sampling
parameters go out to one worker, and whole or streamed answers in the shape of the endpoint.
Open `serving.py` first, which follows a request; then `client.py`, which vLLM takes for its engine.
Common requests take shorter ways than vLLM's; docs/front.md has the list.
"""
