"""An endpoint picker for Envoy: the router's decisions for requests that Envoy carries."""
