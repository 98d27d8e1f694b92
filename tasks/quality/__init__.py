"""Quality reports: saved queries over the reports of one or more archives, and a page with the answers."""
