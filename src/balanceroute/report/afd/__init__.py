"""Plans and simulated bundles of attention/FFN disaggregation: sentences, tables and a page."""
