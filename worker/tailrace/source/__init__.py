"""Talk to upstream over HTTP: open streams, follow feeds, page lists; status → error, once, here."""
