"""HTTP below the routes: sockets, limits, keys, middleware, errors."""
