"""Small models of many architectures, and what each method does to them."""
