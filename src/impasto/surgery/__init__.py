"""Surgery: a generator becomes a cheaper one. What is put in the place of what is in
`models/edited/`; here is how it is chosen and how it learns."""
