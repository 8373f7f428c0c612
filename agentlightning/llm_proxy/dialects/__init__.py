"""The APIs of model servers: what to add to a request, how a stream is to be treated, how an answer is read."""
