"""One pool behind several gateways: what each holds is kept in a store that all of them ask before they send."""
