"""What supports the course's notebooks: data, figures, panels, artifacts, export."""
