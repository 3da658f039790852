"""``disguisor run``: a bag is checked, played into the graph, and what comes out recorded."""
