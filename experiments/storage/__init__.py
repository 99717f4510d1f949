"""The store: artifacts by their content, verified when read, and tables over them."""
