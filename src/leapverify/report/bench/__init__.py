"""Tables, figures and page of a bench."""
