"""The only package that speaks HTTP to strangers: `fetch` downloads, `addresses` and `connect` judge where to."""
