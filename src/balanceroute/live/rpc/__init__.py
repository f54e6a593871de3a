"""gRPC over HTTP/2 for the router's own services: few messages, small ones, many of them."""
