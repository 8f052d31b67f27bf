"""`report.html`: a run to look at, as one file that needs nothing else; `page` puts it together."""
