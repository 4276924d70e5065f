"""Documentation site: `python -m docs.site` gathers its sources in build/docs-source and builds build/docs."""
