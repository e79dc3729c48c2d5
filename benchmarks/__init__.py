"""What is run by hand or on a GPU machine; results/ holds the committed figures and the machine they came from."""
