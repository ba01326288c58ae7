"""Reports: results as dicts in, pages and text out. No process is started here."""
