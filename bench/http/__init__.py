"""What the router costs per request, beside other routers and the direct way."""
