"""A router in several processes: data planes carry requests, a brain decides for all of them."""
