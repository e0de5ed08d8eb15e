"""The processor's half of vLLM: request bodies to engine requests, engine outputs to answers.

In come bodies as clients sent them and the outputs of engine steps. Out go token ids with sampling
parameters for one worker, and the bytes of whole or streamed answers in the shape of the endpoint.
Open `serving.py` first, which follows a request; then `client.py`, which vLLM takes for its engine.
"""
