"""The gap report: settings in, studied problems, tables, figures and files out."""
