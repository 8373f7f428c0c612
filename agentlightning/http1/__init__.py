"""HTTP/1.1 as clients speak it: requests that are bytes, answers as they come, connections kept for the next request.

A general client spends more on a small call than all else that is done with it. This one has no cookies, redirects or
proxies (variables such as `HTTP_PROXY` mean nothing to it) and asks for no compression; deadlines are its callers'
affair, but for that of connecting. Messages are read by httptools, as the servers'.
"""

from agentlightning.http1.answer import Answer
from agentlightning.http1.client import ConnectTimeout, HttpClient
from agentlightning.http1.server import Server, server_of

__all__ = ["Answer", "ConnectTimeout", "HttpClient", "Server", "server_of"]
