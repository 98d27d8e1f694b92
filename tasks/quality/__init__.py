"""What owners of archives ask: saved queries over the reports of one or many archives, and a page with the answers."""
