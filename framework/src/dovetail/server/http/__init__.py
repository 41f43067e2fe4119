"""HTTP below the routes: sockets, limits, API keys, middleware, errors."""
