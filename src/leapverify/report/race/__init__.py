"""Tables, figures and page of a race."""
