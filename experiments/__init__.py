"""One file, one claim: what is measured lands in results/ as JSON and pictures."""
